"""Registries that lie, break off, flood and stall: nothing wrong is taken for right, nothing hangs."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from shoal.digest import Digest
from shoal.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    ShoalError,
    Unavailable,
    Unimplemented,
)
from shoal.reference import Reference
from shoald.oci.manifest import Descriptor
from shoald.oci.mediatypes import DOCKER_SCHEMA1_SIGNED, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from shoald.registry.client import RegistryClient
from shoald.registry.settings import RegistrySettings
from shoald.registry.verify import read_blob
from tests.support.docker_registry import free_port
from tests.support.hostile_registry import (
    HostileRegistry,
    Seen,
    hostile_registry,
    range_start,
    serve_manifest,
    serve_part,
)
from tests.support.images import make_image

IMAGE = make_image([{"a": "x"}])
DATA = random.Random(1).randbytes(6_000_000)
BLOB = Descriptor.of(DATA, OCI_LAYER)


class Client(RegistryClient):
    """The real client; its waits are noted and cut short."""

    def __init__(self, **settings: Any) -> None:
        self.waits: list[float] = []
        super().__init__(RegistrySettings(**{"attempts": 4, "stall_timeout": 5.0, **settings}), sleep=self._note)

    async def _note(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client()
    yield made
    await made.close()


def ref_at(server: HostileRegistry, name: str = "app:1") -> Reference:
    return Reference.parse(f"{server.address}/{name}")


async def whole(client: RegistryClient, server: HostileRegistry, descriptor: Descriptor = BLOB) -> bytes:
    async with client.blob(ref_at(server), descriptor) as chunks:
        return b"".join([chunk async for chunk in chunks])


def manifest(**members: Any) -> bytes:
    return msgspec.json.encode({"schemaVersion": 2, **members})


CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": IMAGE.id, "size": 2}


@pytest.mark.parametrize(
    ("body", "content_type", "error", "reason"),
    [
        (manifest(config=CONFIG, layers=[], manifests=[]), OCI_MANIFEST, InvalidArgument, "BAD_MANIFEST"),
        (manifest(config=CONFIG, layers=[], manifests=[]), OCI_INDEX, InvalidArgument, "BAD_MANIFEST"),
        (manifest(config=CONFIG, layers=[], mediaType=OCI_MANIFEST), OCI_INDEX, InvalidArgument, "BAD_MANIFEST"),
        (manifest(config=CONFIG, layers=[]), OCI_INDEX, InvalidArgument, "BAD_MANIFEST"),
        (manifest(manifests=[]), OCI_MANIFEST, InvalidArgument, "BAD_MANIFEST"),
        (b"<html>no such thing</html>", OCI_MANIFEST, InvalidArgument, "BAD_MANIFEST"),
        (b"[" * 1_000_000, OCI_MANIFEST, InvalidArgument, "BAD_MANIFEST"),
        (b'{"schemaVersion":1,"fsLayers":[]}', DOCKER_SCHEMA1_SIGNED, Unimplemented, "SCHEMA1"),
        (b" " * (4 * 1024 * 1024 + 1), OCI_MANIFEST, DataLoss, "SIZE_MISMATCH"),
        (b"{}", "text/html", InvalidArgument, "BAD_MANIFEST"),
    ],
)
async def test_manifest_that_is_none(
    client: Client, body: bytes, content_type: str, error: type[ShoalError], reason: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return serve_manifest(body, content_type)

    async with hostile_registry(handler) as server:
        with pytest.raises(error) as caught:
            await client.resolve(ref_at(server))
    assert caught.value.reason == reason


async def test_manifest_of_another_digest(client: Client) -> None:
    async def handler(request: web.Request) -> web.Response:
        told = str(Digest.of(b"another")) if request.path.endswith("/1") else IMAGE.digest
        return serve_manifest(IMAGE.manifest, OCI_MANIFEST, docker_content_digest=told)

    async with hostile_registry(handler) as server:
        for name in ("app:1", f"app@{Digest.of(b'another')}"):
            with pytest.raises(DataLoss) as caught:
                await client.resolve(ref_at(server, name))
            assert caught.value.reason == "DIGEST_MISMATCH"
        other = msgspec.structs.replace(IMAGE.descriptor, digest=str(Digest.of(b"another")))
        with pytest.raises(DataLoss):
            await client.manifest(ref_at(server), other)


async def test_digest_of_a_tag_is_that_of_the_bytes(client: Client) -> None:
    async def handler(request: web.Request) -> web.Response:
        return serve_manifest(IMAGE.manifest, "application/json")

    async with hostile_registry(handler) as server:
        found = await client.resolve(ref_at(server))
    assert found.descriptor == IMAGE.descriptor


async def test_type_switch_under_one_digest(client: Client) -> None:
    """The same bytes, announced first as a manifest and then as an index (CVE-2021-41190)."""
    kinds = [OCI_MANIFEST, OCI_INDEX]

    async def handler(request: web.Request) -> web.Response:
        return serve_manifest(IMAGE.manifest, kinds.pop(0))

    async with hostile_registry(handler) as server:
        assert await client.manifest(ref_at(server), IMAGE.descriptor) == IMAGE.manifest
        with pytest.raises(InvalidArgument) as caught:
            await client.manifest(ref_at(server), IMAGE.descriptor)
    assert caught.value.reason == "BAD_MANIFEST"


async def test_endless_manifest_is_cut(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async with hostile_registry(handler) as server:
        with pytest.raises(DataLoss) as caught:
            await client.resolve(ref_at(server))
    assert caught.value.reason == "SIZE_MISMATCH"


async def test_endless_blob_gives_no_byte_too_many(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(DATA)
        while True:
            await response.write(b"x" * 65536)

    got = 0

    async def read(server: HostileRegistry) -> None:
        nonlocal got
        async with client.blob(ref_at(server), BLOB) as chunks:
            async for chunk in chunks:
                got += len(chunk)

    async with hostile_registry(handler) as server:
        with pytest.raises(DataLoss) as caught:
            await read(server)
    assert caught.value.reason == "SIZE_MISMATCH"
    assert got <= BLOB.size


async def test_blob_of_other_bytes(client: Client) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=DATA[:-1] + b"!")

    async with hostile_registry(handler) as server:
        with pytest.raises(DataLoss) as caught:
            await read_blob(client, ref_at(server), BLOB)
    assert caught.value.reason == "DIGEST_MISMATCH"


@pytest.mark.parametrize("promised", [len(DATA) - 1, len(DATA) + 1])
async def test_blob_that_promises_another_size(client: Client, promised: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=(DATA + b"+")[:promised])

    async with hostile_registry(handler) as server:
        with pytest.raises(DataLoss) as caught:
            await whole(client, server)
    assert caught.value.reason == "SIZE_MISMATCH"


async def test_broken_connections_are_resumed_where_they_broke(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        start = range_start(request)
        return await serve_part(request, DATA, 1_500_000, status=206 if start else 200, start=start)

    async with hostile_registry(handler) as server:
        assert await whole(client, server) == DATA
        starts = [s.headers.get("Range") for s in server.asked("/blobs/")]
    assert starts[0] is None
    assert all(start is not None for start in starts[1:])
    assert len(starts) >= 4


async def test_resuming_without_range_support_skips(client: Client) -> None:
    cuts = [1_000_000, 3_000_000, len(DATA)]

    async def handler(request: web.Request) -> web.StreamResponse:
        return await serve_part(request, DATA, cuts.pop(0))

    async with hostile_registry(handler) as server:
        assert await whole(client, server) == DATA
    assert cuts == []


async def test_another_range_than_asked(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if not (start := range_start(request)):
            return await serve_part(request, DATA, 1_000_000)
        return await serve_part(request, DATA, len(DATA), status=206, start=start - 1)

    async with hostile_registry(handler) as server:
        with pytest.raises(Unavailable) as caught:
            await whole(client, server)
    assert caught.value.reason == "REGISTRY_ERROR"


async def test_always_truncated(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        start = range_start(request)
        return await serve_part(request, DATA, max(0, 1000 - start), status=206 if start else 200, start=start)

    async with hostile_registry(handler) as server:
        with pytest.raises(ShoalError) as caught:
            await whole(client, server)
        assert len(server.asked("/blobs/")) <= 2 * 4
    assert caught.value.reason in ("SIZE_MISMATCH", "REGISTRY_UNREACHABLE")


async def test_truncated_without_a_length(client: Client) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=200)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(DATA[:1000])
        return response

    async with hostile_registry(handler) as server:
        with pytest.raises(DataLoss) as caught:
            await whole(client, server)
    assert caught.value.reason == "SIZE_MISMATCH"


async def test_stalled_blob_is_resumed() -> None:
    client = Client(stall_timeout=0.2)

    async def handler(request: web.Request) -> web.StreamResponse:
        start = range_start(request)
        response = web.StreamResponse(
            status=206 if start else 200,
            headers={
                "Content-Length": str(len(DATA) - start),
                "Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}",
            },
        )
        await response.prepare(request)
        if start:
            await response.write(DATA[start:])
        else:
            await response.write(DATA[:2_000_000])
            await asyncio.sleep(30)
        return response

    async with hostile_registry(handler) as server:
        assert await whole(client, server) == DATA
        assert len(server.asked("/blobs/")) == 2
    await client.close()


async def test_rate_limit_is_obeyed_then_reported(client: Client) -> None:
    failures = 2

    async def handler(request: web.Request) -> web.Response:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            return web.Response(status=429, headers={"Retry-After": "3"})
        return serve_manifest(IMAGE.manifest, OCI_MANIFEST)

    async with hostile_registry(handler) as server:
        await client.resolve(ref_at(server))
        assert client.waits == [3.0, 3.0]
        failures = 99
        with pytest.raises(ResourceExhausted) as caught:
            await client.resolve(ref_at(server))
    assert caught.value.reason == "REGISTRY_RATE_LIMIT"


async def test_absurd_retry_after_is_bounded(client: Client) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "1e300"})

    async with hostile_registry(handler) as server:
        with pytest.raises(Unavailable):
            await client.resolve(ref_at(server))
    assert max(client.waits) <= 60


async def test_server_errors_are_tried_again_with_growing_waits(client: Client) -> None:
    statuses = [500, 502, 503]

    async def handler(request: web.Request) -> web.Response:
        if statuses:
            return web.Response(status=statuses.pop(0))
        return serve_manifest(IMAGE.manifest, OCI_MANIFEST)

    async with hostile_registry(handler) as server:
        assert (await client.resolve(ref_at(server))).body == IMAGE.manifest
    assert len(client.waits) == 3
    assert client.waits[0] < client.waits[2]


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (403, b'{"errors":[{"code":"DENIED","message":"no"}]}', PermissionDenied, "REGISTRY_DENIED"),
        (
            400,
            b'{"errors":[{"code":"NAME_INVALID","message":"\\u001b[31mred\\r\\n"}]}',
            FailedPrecondition,
            "REGISTRY_REFUSED",
        ),
        (418, b"\xff\xfe" * 500_000, FailedPrecondition, "REGISTRY_REFUSED"),
        (404, b'{"errors":' + b"[" * 50_000, ShoalError, "IMAGE_NOT_FOUND"),
        (204, b"", FailedPrecondition, "REGISTRY_REFUSED"),
        (304, b"", FailedPrecondition, "REGISTRY_REFUSED"),
    ],
)
async def test_error_answers(client: Client, status: int, body: bytes, error: type[ShoalError], reason: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    async with hostile_registry(handler) as server:
        with pytest.raises(error) as caught:
            await client.resolve(ref_at(server))
    assert caught.value.reason == reason
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


async def test_unknown_host(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unavailable, match=r"registry\.invalid is unknown") as caught:
        await client.resolve(Reference.parse("registry.invalid/app:1"))
    assert caught.value.reason == "REGISTRY_UNREACHABLE"
    assert client.waits == []


async def test_nothing_listens(client: Client) -> None:
    with pytest.raises(Unavailable, match="can't connect") as caught:
        await client.resolve(Reference.parse(f"127.0.0.1:{free_port()}/app:1"))
    assert caught.value.reason == "REGISTRY_UNREACHABLE"


async def test_not_http(client: Client) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 100)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            await client.resolve(Reference.parse(f"127.0.0.1:{port}/app:1"))


async def test_upload_falls_back_to_chunks(client: Client) -> None:
    held = bytearray()

    async def handler(request: web.Request) -> web.Response | None:
        match request.method:
            case "HEAD":
                return None
            case "POST":
                held.clear()
                return web.Response(status=202, headers={"Location": "/v2/app/blobs/uploads/1?state=a%2Fb%3D"})
            case "PATCH":
                body = await request.read()
                assert request.headers["Content-Range"] == f"{len(held)}-{len(held) + len(body) - 1}"
                held.extend(body)
                return web.Response(status=202, headers={"Location": "/v2/app/blobs/uploads/1?state=next"})
            case "PUT" if held and request.query["digest"] == str(Digest.of(bytes(held))):
                return web.Response(status=201)
        await request.read()
        return web.Response(status=413)

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), 1_000_000):
            yield DATA[at : at + 1_000_000]

    async with hostile_registry(handler) as server:
        assert await client.push_blob(ref_at(server), BLOB, body)
        put: Seen = server.asked("/uploads/1", "PUT")[0]
    assert put.query.startswith("state=a%2Fb%3D&digest=")  # signed addresses stay as they are
    assert bytes(held) == DATA


async def test_forgotten_upload_is_started_again(client: Client) -> None:
    sessions = 0

    async def handler(request: web.Request) -> web.Response | None:
        nonlocal sessions
        if request.method == "POST":
            sessions += 1
            return web.Response(status=202, headers={"Location": f"/v2/app/blobs/uploads/{sessions}"})
        if request.method == "PUT":
            await request.read()
            return web.Response(status=201 if request.path.endswith("/3") else 404)
        return None

    async def body() -> AsyncIterator[bytes]:
        yield DATA

    async with hostile_registry(handler) as server:
        assert await client.push_blob(ref_at(server), BLOB, body)
    assert sessions == 3


async def test_upload_that_breaks_is_started_again(client: Client) -> None:
    puts = 0

    async def handler(request: web.Request) -> web.Response | None:
        nonlocal puts
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": "/v2/app/blobs/uploads/1"})
        if request.method == "PUT":
            puts += 1
            if puts < 3:
                await request.content.read(100_000)
                assert request.transport is not None
                request.transport.abort()
                return None
            return web.Response(status=201 if await request.read() == DATA else 400)
        return None

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), 100_000):
            yield DATA[at : at + 100_000]

    async with hostile_registry(handler) as server:
        assert await client.push_blob(ref_at(server), BLOB, body)
    assert puts == 3
