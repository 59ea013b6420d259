"""Files that ADD fetches over http and https.

The daemon fetches, so what only the host can reach (its loopback, its link's metadata services) is refused unless the
build has the host's network, which needs an administrator. No credentials are ever sent; redirects are followed by hand
and checked alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
from collections.abc import Sequence
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

MAX_BYTES = 16 << 30
MAX_REDIRECTS = 10
CHUNK = 1 << 20
CONNECT_S, STALL_S = 30.0, 60.0


class Fetched(Struct, frozen=True):
    """A file that was fetched: its place, digest, size and time (ns since the epoch; 0: the server told none)."""

    path: Path
    digest: str
    size: int
    mtime_ns: int


async def fetch(url: str, target: Path, *, checksum: str = "", local: bool = False) -> Fetched:
    """Fetch a file. `local`: what only the host can reach too.

    Raises NotFound (URL_NOT_FOUND), Unavailable (URL_UNREACHABLE), PermissionDenied (URL_REFUSED), DataLoss
    (CHECKSUM_MISMATCH, TRUNCATED), ResourceExhausted (URL_TOO_LARGE, DISK_FULL), InvalidArgument (INVALID_URL).
    """
    connector = aiohttp.TCPConnector(resolver=_Resolver(local))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            async with await _response(session, URL(url), local) as response:
                digest, size = await _store(response, target)
                mtime_ns = _mtime(response.headers.get("Last-Modified", ""))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"can't fetch {url}: {error or type(error).__name__}", reason="URL_UNREACHABLE") from error
    except ValueError as error:
        raise InvalidArgument(f"invalid URL {url[:200]!r}: {error}", reason="INVALID_URL") from error
    if checksum and checksum != f"sha256:{digest}":
        raise DataLoss(f"{url} has the digest sha256:{digest}, not {checksum}", reason="CHECKSUM_MISMATCH")
    return Fetched(target, digest, size, mtime_ns)


async def _response(session: aiohttp.ClientSession, url: URL, local: bool) -> aiohttp.ClientResponse:
    for _ in range(MAX_REDIRECTS):
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidArgument(f"{url} is no http or https URL", reason="INVALID_URL")
        _check_literal(url.host, local)
        response = await session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"})
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
    except (TypeError, ValueError):
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9


def is_local(address: str) -> bool:
    """Whether an address means something else, or more, to the host than to others."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast


def _check_literal(host: str, local: bool) -> None:
    try:
        refused = not local and is_local(host)
    except ValueError:
        return  # a name: the resolver looks at what it stands for
    if refused:
        raise _refused(host)


def _refused(host: str) -> ShoalError:
    return PermissionDenied(
        f"{host} is an address of the host itself",
        reason="URL_REFUSED",
        hint="an admin can allow it: shoal build --network host",
    )


class _Resolver(AbstractResolver):
    """The system's resolver, without addresses that only the host can reach."""

    def __init__(self, local: bool) -> None:
        self._local = local
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        """See AbstractResolver."""
        found: Sequence[ResolveResult] = await self._inner.resolve(host, port, family)
        kept = [each for each in found if self._local or not is_local(each["host"])]
        if found and not kept:
            raise _refused(host)
        return list(kept)

    async def close(self) -> None:
        """See AbstractResolver."""
        await self._inner.close()
