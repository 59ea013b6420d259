"""Files that ADD fetches, from a server on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from shoal.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, ShoalError, Unavailable
from shoald.build.remote import fetch, is_local

BODY = b"x" * 3_000_000


@pytest.fixture
async def server() -> AsyncIterator[str]:
    seen: list[str] = []

    async def file(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.Response(body=BODY, headers={"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"})

    async def there(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/file"})

    async def around(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/around"})

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "file:///etc/passwd"})

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"short")
        assert request.transport is not None
        request.transport.close()
        return response

    app = web.Application()
    app.add_routes([web.get(f"/{each.__name__}", each) for each in (file, there, around, elsewhere, cut)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


async def test_fetches_with_digest_and_time(server: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    found = await fetch(f"{server}/there", tmp_path / "f", checksum=f"sha256:{digest}", local=True)
    assert (found.digest, found.size, found.mtime_ns) == (digest, len(BODY), 1445412480 * 10**9)
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/nothing", NotFound, "URL_NOT_FOUND"),
        ("/around", Unavailable, "URL_UNREACHABLE"),
        ("/elsewhere", InvalidArgument, "INVALID_URL"),
        ("/cut", Unavailable, "URL_UNREACHABLE"),
    ],
)
async def test_what_goes_wrong(server: str, path: str, error: type[ShoalError], reason: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        await fetch(server + path, tmp_path / "f", local=True)
    assert caught.value.reason == reason


async def test_another_digest(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="has the digest"):
        await fetch(f"{server}/file", tmp_path / "f", checksum="sha256:" + "0" * 64, local=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.1]"]
)
async def test_what_only_the_host_can_reach_is_refused(server: str, host: str, tmp_path: Path) -> None:
    port = server.rpartition(":")[2]
    with pytest.raises(PermissionDenied) as caught:
        await fetch(f"http://{host}:{port}/file", tmp_path / "f")
    assert caught.value.reason == "URL_REFUSED"


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await fetch("http://127.0.0.1:1/file", tmp_path / "f", local=True)


def test_addresses() -> None:
    assert is_local("127.3.2.1")
    assert is_local("fe80::1%eth0")
    assert not is_local("10.0.0.1")
    assert not is_local("2001:db8::1")
