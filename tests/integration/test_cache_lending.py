"""Caches of clients' directories over the wire: lent blobs come whole, over several calls, or not at all; and fetched
ones go on where a link was lost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from shoal.errors import DataLoss, NotFound, ShoalError, Unavailable
from shoal.reference import Reference
from shoal.v1 import image_pb2 as pb
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoalctl.fleet.cache_fetching import CacheFetch
from shoalctl.fleet.cache_layout import CacheLayout
from shoalctl.fleet.cache_lending import CacheLoan
from shoalctl.fleet.cache_writing import CacheWriter
from shoalctl.fleet.host import HostClient
from shoalctl.inventory import Host
from shoald.build import lending
from shoald.build.lending import CacheLenders, ClientCache, Want
from shoald.model.build import LentCache
from shoald.oci.manifest import Descriptor
from tests.support.api_server import serving
from tests.support.fake_engine import FakeEngine

HANDLE = "0123456789abcdef"
REF = Reference.parse("localhost/client")
DATA = os.urandom(5 << 20)


def put(directory: Path, data: bytes, name: str = "") -> Descriptor:
    """A blob of a layout; `name`: under another digest than its own."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    name = name or hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return Descriptor(media_type="application/octet-stream", digest=f"sha256:{name}", size=len(data))


def source(lenders: CacheLenders) -> ClientCache:
    return ClientCache(lenders, LentCache(HANDLE, "cache", "", "sha256:" + "0" * 64, 1))


async def read(cache: ClientCache, wanted: Descriptor, offset: int = 0) -> bytes:
    async with cache.blob(REF, wanted, offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


@contextlib.asynccontextmanager
async def client_of(engine: FakeEngine, directory: Path) -> AsyncIterator[HostClient]:
    async with serving(engine, directory) as running:
        client = HostClient(Host(name="h", address=f"unix://{running.config.socket_path}"), 5)
        try:
            yield client
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def lent(engine: FakeEngine, directory: Path, cache: Path) -> AsyncIterator[None]:
    async with client_of(engine, directory) as client:
        task = asyncio.create_task(CacheLoan(client, HANDLE, CacheLayout(cache)).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_blobs_come_from_the_client(tmp_path: Path) -> None:
    engine, cache = FakeEngine(), tmp_path / "cache"
    wanted = [put(cache, data) for data in (DATA, b"small", b"")]
    async with lent(engine, tmp_path, cache):
        host = source(engine.lenders)
        assert await asyncio.gather(*(read(host, each) for each in wanted)) == [DATA, b"small", b""]
        assert await read(host, wanted[0], 1 << 20) == DATA[1 << 20 :]


async def test_a_blob_that_nobody_takes_to_its_end_is_no_hindrance(tmp_path: Path) -> None:
    engine, cache = FakeEngine(), tmp_path / "cache"
    large, small = put(cache, DATA), put(cache, b"small")
    async with lent(engine, tmp_path, cache):
        host = source(engine.lenders)
        for _ in range(3):
            async with host.blob(REF, large) as chunks:
                assert DATA.startswith(await anext(aiter(chunks)))
            assert await read(host, small) == b"small"


async def test_what_the_client_has_not(tmp_path: Path) -> None:
    engine, cache = FakeEngine(), tmp_path / "cache"
    short = put(cache, b"short", "1" * 64)
    long = put(cache, b"longer than it says", "2" * 64)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = put(cache, b"secret", "3" * 64)
    (cache / "blobs" / "sha256" / ("3" * 64)).unlink()
    (cache / "blobs" / "sha256" / ("3" * 64)).symlink_to(secret)
    gone = Descriptor(media_type="", digest="sha256:" + "4" * 64, size=3)
    outside = Descriptor(media_type="", digest="sha256:../../../secret", size=6)
    async with lent(engine, tmp_path, cache):
        host = source(engine.lenders)
        wrong: list[tuple[Descriptor, type[ShoalError]]] = [
            (Descriptor(media_type="", digest=short.digest, size=6), DataLoss),
            (Descriptor(media_type="", digest=long.digest, size=6), DataLoss),
            (link, NotFound),
            (gone, NotFound),
            (outside, NotFound),
        ]
        for each, kind in wrong:
            with pytest.raises(kind):
                await read(host, each)
        assert await read(host, short) == b"short"


async def test_nobody_lends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "WAIT_S", 0.05)
    host = source(CacheLenders())
    wanted = Descriptor(media_type="", digest="sha256:" + "0" * 64, size=1)
    with pytest.raises(Unavailable) as caught:
        await read(host, wanted)
    assert caught.value.reason == "CLIENT_GONE"
    monkeypatch.setattr(lending, "WAIT_S", 1000.0)
    with pytest.raises(Unavailable):
        await read(host, wanted)  # at once: the other steps do not wait


async def test_a_client_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "STALL_S", 0.05)
    lenders = CacheLenders()
    with lenders.lent(HANDLE) as loan, pytest.raises(Unavailable) as caught:
        await read(source(lenders), Descriptor(media_type="", digest="sha256:" + "0" * 64, size=1))
    assert caught.value.reason == "CLIENT_SILENT"
    assert [loan.orders.get_nowait() for _ in range(2)] == [Want(1, "sha256:" + "0" * 64, 0), 1], "it is dropped"


async def test_a_later_call_goes_on_where_the_earlier_one_ended() -> None:
    lenders = CacheLenders()
    wanted = Descriptor(media_type="", digest="sha256:" + "0" * 64, size=6)
    reading = asyncio.create_task(read(source(lenders), wanted))
    with lenders.lent(HANDLE) as first:
        assert await first.orders.get() == Want(1, wanted.digest, 0)
        await first.take(1, b"abc")
        await first.take(7, b"of another one")
        with lenders.lent(HANDLE) as second:
            assert await second.orders.get() == Want(1, wanted.digest, 3)
            await first.take(1, b"too late")
            first.end(1, "too late")
            await second.take(1, b"def")
            second.end(1, "")
            assert await reading == b"abcdef"


@pytest.mark.parametrize(
    "messages",
    [
        [pb.ImageServiceLendCacheRequest(end={"number": 1})],
        [pb.ImageServiceLendCacheRequest(start={"handle": "short"})],
        [pb.ImageServiceLendCacheRequest(start={"handle": HANDLE})] * 2,
        [
            pb.ImageServiceLendCacheRequest(start={"handle": HANDLE}),
            pb.ImageServiceLendCacheRequest(chunk={"number": 1, "data": bytes((1 << 20) + 1)}),
        ],
    ],
)
async def test_a_stream_out_of_order(tmp_path: Path, messages: list[pb.ImageServiceLendCacheRequest]) -> None:
    async with serving(FakeEngine(), tmp_path) as running, grpc.aio.insecure_channel(running.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in ImageServiceStub(channel).LendCache(iter(messages)):
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class Exporting(FakeEngine):
    """Has these blobs; each call sends so many bytes of one, then the link is lost."""

    def serve(self, blobs: dict[str, bytes], most: int) -> None:
        self.held, self.most, self.offsets = blobs, most, [0][:0]

    async def read_cache_blob(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        rest = self.held[digest][offset:]
        yield rest[: self.most]
        if len(rest) > self.most:
            raise Unavailable("the daemon stops", reason="SHUTTING_DOWN")


def artifact(*layers: bytes) -> tuple[dict[str, bytes], Descriptor]:
    blobs = {f"sha256:{hashlib.sha256(each).hexdigest()}": each for each in (b"{}", *layers)}
    parts = [{"mediaType": "x/y", "digest": digest, "size": len(data)} for digest, data in blobs.items()]
    manifest = Descriptor.of(body := json.dumps({"config": parts[0], "layers": parts[1:]}).encode(), "")
    return {**blobs, manifest.digest: body}, manifest


async def test_a_lost_link_costs_what_was_under_way(tmp_path: Path) -> None:
    engine, cache = Exporting(), tmp_path / "cache"
    layers = [DATA[: 2 << 20], DATA[2 << 20 : 3 << 20]]
    blobs, manifest = artifact(*layers)
    engine.serve(blobs, 900_000)
    writer = CacheWriter(cache)
    writer.prepare()
    told: list[tuple[int, int]] = []
    async with client_of(engine, tmp_path) as client:
        fetch = CacheFetch(client, "b", lambda done, total: told.append((done, total)))
        await fetch.run(manifest.digest, manifest.size, writer, "latest")
        assert engine.offsets == [0, 0, 0, 900_000, 1_800_000, 0, 900_000]
        assert told[-1] == (2 + (3 << 20),) * 2
        layout = CacheLayout(cache)
        assert layout.find().digest == manifest.digest
        assert [layout.document(digest) for digest in blobs] == list(blobs.values())
        await fetch.run(manifest.digest, manifest.size, CacheWriter(cache), "other")
        assert len(engine.offsets) == 7, "all of it is here"
        assert layout.find("other") == layout.find("latest")


@pytest.mark.parametrize("lie", ["bytes", "more", "less"])
async def test_a_host_that_lies(tmp_path: Path, lie: str) -> None:
    engine, cache = Exporting(), tmp_path / "cache"
    blobs, manifest = artifact(b"layer")
    (layer,) = [digest for digest, data in blobs.items() if data == b"layer"]
    engine.serve({**blobs, layer: {"bytes": b"trojan"[:5], "more": b"layer and more", "less": b"lay"}[lie]}, 1 << 20)
    writer = CacheWriter(cache)
    writer.prepare()
    async with client_of(engine, tmp_path) as client:
        with pytest.raises(DataLoss):
            await CacheFetch(client, "b", print).run(manifest.digest, manifest.size, writer, "latest")
    assert not (cache / "index.json").exists()
    assert list((cache / "blobs" / "sha256").iterdir()) == []
