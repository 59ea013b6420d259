"""Files that ADD fetches over http and https.

The daemon fetches, so what only the host can reach (its loopback, its own addresses, its containers, its cloud's
metadata services) is refused unless the build has the host's network, which needs an administrator. No credentials are
ever sent; redirects are followed by hand and checked alike. The proxies of the daemon's environment are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from shoal.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ShoalError,
    Unavailable,
)
from shoald.build.addresses import Subnet, is_local, own_addresses, subnets
from shoald.registry.proxies import Proxies

MAX_BYTES = 16 << 30
MAX_REDIRECTS = 10
CHUNK = 1 << 20
CONNECT_S, STALL_S = 30.0, 60.0
MAX_MTIME_NS = 2**63 - 1


class Fetched(Struct, frozen=True):
    """A file that was fetched: its place, digest, size and time (ns since the epoch; 0: the server told none)."""

    path: Path
    digest: str
    size: int
    mtime_ns: int


async def fetch(
    url: str, target: Path, *, checksum: str = "", local: bool = False, networks: Iterable[str] = ()
) -> Fetched:
    """Fetch a file. `local`: what only the host can reach too, as are the `networks` of its containers.

    Raises NotFound (URL_NOT_FOUND), Unavailable (URL_UNREACHABLE), PermissionDenied (URL_REFUSED), DataLoss
    (CHECKSUM_MISMATCH, TRUNCATED), ResourceExhausted (URL_TOO_LARGE, DISK_FULL), InvalidArgument (INVALID_URL).
    """
    guard = _Guard(None if local else [*subnets(networks), *await asyncio.to_thread(own_addresses)])
    try:
        async with _client(guard) as client, await _response(client, URL(url)) as response:
            digest, size = await _store(response, target)
            mtime_ns = _mtime(response.headers.get("Last-Modified", ""))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"can't fetch {url}: {error or type(error).__name__}", reason="URL_UNREACHABLE") from error
    except ValueError as error:
        raise InvalidArgument(f"invalid URL {url[:200]!r}: {error}", reason="INVALID_URL") from error
    if checksum and checksum != f"sha256:{digest}":
        raise DataLoss(f"{url} has the digest sha256:{digest}, not {checksum}", reason="CHECKSUM_MISMATCH")
    return Fetched(target, digest, size, mtime_ns)


async def _response(client: _Client, url: URL) -> aiohttp.ClientResponse:
    for _ in range(MAX_REDIRECTS):
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidArgument(f"{url} is no http or https URL", reason="INVALID_URL")
        response = await client.get(url, url.host)
        if response.status in (301, 302, 303, 307, 308) and (location := response.headers.get("Location")):
            response.release()
            url = url.join(URL(location))
            continue
        if response.status != 200:
            response.release()
            kind = NotFound if response.status in (404, 410) else Unavailable
            raise kind(f"{url} answers {response.status}", reason="URL_NOT_FOUND")
        return response
    raise Unavailable(f"{url} redirects more than {MAX_REDIRECTS} times", reason="URL_UNREACHABLE")


async def _store(response: aiohttp.ClientResponse, target: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        async for chunk in response.content.iter_chunked(CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise ResourceExhausted(f"{response.url} is larger than {MAX_BYTES} bytes", reason="URL_TOO_LARGE")
            digest.update(chunk)
            try:
                await asyncio.to_thread(file.write, chunk)
            except OSError as error:
                raise ResourceExhausted(f"can't store {response.url}: {error.strerror}", reason="DISK_FULL") from error
    if response.content_length is not None and size != response.content_length:
        raise DataLoss(f"{response.url} ended after {size} of {response.content_length} bytes", reason="TRUNCATED")
    return digest.hexdigest(), size


def _mtime(text: str) -> int:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return 0
    found = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9
    return found if 0 <= found <= MAX_MTIME_NS else 0


class _Guard:
    """Knows where not to go. `refused`: networks besides what is_local refuses; None: nothing is refused."""

    def __init__(self, refused: Sequence[Subnet] | None) -> None:
        self._refused = refused

    def refuses(self, address: str) -> bool:
        """Whether not to go to an address."""
        return self._refused is not None and is_local(address, self._refused)

    def check_literal(self, host: str) -> None:
        """Raises PermissionDenied (URL_REFUSED) for an address; not for a name: the resolver looks at what it is."""
        try:
            refused = self.refuses(host)
        except ValueError:
            return
        if refused:
            raise _refused(host)

    async def check_name(self, host: str) -> None:
        """The same for a name that a proxy resolves: one that only the proxy knows passes."""
        try:
            found = await aiohttp.ThreadedResolver().resolve(host, family=socket.AF_UNSPEC)
        except OSError:
            return
        if any(self.refuses(each["host"]) for each in found):
            raise _refused(host)


class _Client:
    """Sends requests directly or by a proxy, whose own address is the operator's choice and not looked at."""

    def __init__(self, guard: _Guard, direct: aiohttp.ClientSession, proxied: aiohttp.ClientSession) -> None:
        self._guard = guard
        self._direct, self._proxied = direct, proxied
        self._proxies = Proxies()

    async def get(self, url: URL, host: str) -> aiohttp.ClientResponse:
        """The response with its body unread; no redirect is followed. Raises PermissionDenied (URL_REFUSED)."""
        self._guard.check_literal(host)
        proxy = self._proxies.of(url)
        if proxy is not None:
            await self._guard.check_name(host)
        session = self._direct if proxy is None else self._proxied
        return await session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}, proxy=proxy)


@contextlib.asynccontextmanager
async def _client(guard: _Guard) -> AsyncIterator[_Client]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
    connector = aiohttp.TCPConnector(resolver=_Resolver(guard))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as direct,
        aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as proxied,
    ):
        yield _Client(guard, direct, proxied)


def _refused(host: str) -> ShoalError:
    return PermissionDenied(
        f"{host} is an address of the host itself, or that only the host can reach",
        reason="URL_REFUSED",
        hint="an admin can allow it: shoal build --network host",
    )


class _Resolver(AbstractResolver):
    """The system's resolver, without addresses that only the host can reach."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        """See AbstractResolver."""
        found: Sequence[ResolveResult] = await self._inner.resolve(host, port, family)
        kept = [each for each in found if not self._guard.refuses(each["host"])]
        if found and not kept:
            raise _refused(host)
        return list(kept)

    async def close(self) -> None:
        """See AbstractResolver."""
        await self._inner.close()
