"""Files that ADD fetches, from a server on loopback."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from shoal.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, ShoalError, Unavailable
from shoald.build.addresses import is_local, own_addresses, subnets
from shoald.build.remote import fetch

BODY = b"x" * 3_000_000
Answer = Callable[[Mapping[str, str]], Awaitable[str]]


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


@pytest.fixture
async def answer() -> AsyncIterator[Answer]:
    """Serves a body with some headers under whatever address, also as a proxy; gives its own address."""
    runners: list[web.ServerRunner] = []

    async def serve(headers: Mapping[str, str]) -> str:
        async def handle(_: web.BaseRequest) -> web.Response:
            return web.Response(body=b"body", headers=headers)

        runner = web.ServerRunner(web.Server(handle))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    yield serve
    for runner in runners:
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


@pytest.mark.parametrize(
    "address",
    [
        "127.3.2.1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "fd00:ec2::254",
        "100.100.100.200",
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "2002:7f00:1::1",
        "10.209.3.4",
        "::ffff:10.209.3.4",
    ],
)
def test_local_addresses(address: str) -> None:
    assert is_local(address, subnets(["10.209.0.0/16", "fd12::/64"]))


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1", "64:ff9b::808:808", "2002:808:808::1", "8.8.8.8"])
def test_other_addresses(address: str) -> None:
    assert not is_local(address, subnets(["10.209.0.0/16", "fd12::/64"]))


def test_the_hosts_own_addresses() -> None:
    assert is_local("127.0.0.1", own_addresses())
    assert ipaddress.ip_network("127.0.0.1/32") in own_addresses()


async def test_an_own_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoald.build.remote.own_addresses", lambda: subnets(["198.51.100.7/32"]))
    for host in ("198.51.100.7", "203.0.113.9"):
        with pytest.raises(PermissionDenied):
            await fetch(f"http://{host}/file", tmp_path / "f", networks=["203.0.113.0/24"])


@pytest.mark.parametrize(
    "modified",
    [
        "Wed, 21 Oct 9999 07:28:00 GMT",
        "Wed, 21 Oct 1815 07:28:00 GMT",
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 +99999999999999",
        "yesterday",
    ],
)
async def test_absurd_times(modified: str, tmp_path: Path, answer: Answer) -> None:
    url = await answer({"Last-Modified": modified})
    assert (await fetch(url, tmp_path / "f", local=True)).mtime_ns == 0


async def test_the_daemons_proxy(tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on this host; what it may not be asked for is what the host alone can reach."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", await answer({}))
    found = await fetch("http://somewhere.invalid/file", tmp_path / "f")
    assert found.size == 4
    monkeypatch.setattr("shoald.build.remote.Proxies.of", lambda self, url: "http://127.0.0.1:1")
    with pytest.raises(PermissionDenied):
        await fetch("http://localhost/file", tmp_path / "g")
