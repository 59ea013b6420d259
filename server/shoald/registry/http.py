"""One HTTP exchange at a time: connections, TLS, proxies and timeouts. Follows no redirect and knows no credentials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

import aiohttp
from yarl import URL

from shoal.errors import DataLoss, InvalidArgument
from shoald.registry.failures import MAX_ERROR_BYTES, Answer, Lost, from_exception, read_answer
from shoald.registry.origin import host_port
from shoald.registry.proxies import Proxies
from shoald.registry.settings import RegistrySettings

READ_BUFFER = 1024 * 1024
DOCUMENT_SECONDS = 120
"""How long a manifest, a token or an error may take: one that drips would otherwise never stall and never end."""
_MAX_HEADER = 64 * 1024
_PIECE = 256 * 1024
_BASE_HEADERS: Mapping[str, str] = MappingProxyType({"User-Agent": "shoal/0.1", "Accept-Encoding": "identity"})


class Http:
    """A pool of connections, opened at the first use."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._proxies = Proxies()

    async def send(
        self,
        method: str,
        url: URL,
        *,
        registry: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request on behalf of `registry` (whose CAs are trusted) and return the response, its body unread.

        Raises Lost for what another try may cure, Unavailable otherwise.
        """
        sent = {**_BASE_HEADERS, **headers}
        if isinstance(body, bytes) and len(body) > _PIECE:
            sent["Content-Length"], body = str(len(body)), _pieces(body)
        try:
            return await self._open().request(
                method,
                url,
                headers=sent,
                data=body,
                allow_redirects=False,
                ssl=self._context(registry),
                proxy=self._proxies.of(url),
            )
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as e:
            found = from_exception(e, registry, host_port(url))
            raise found from e

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=settings.connect_timeout, sock_read=settings.stall_timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BUFFER,
                max_line_size=_MAX_HEADER,
                max_field_size=_MAX_HEADER,
            )
        return self._session

    def _context(self, registry: str) -> ssl.SSLContext:
        ca_file = ca_file_of(self._settings, registry)
        key = str(ca_file or "")
        if key not in self._contexts:
            context = ssl.create_default_context()
            if ca_file is not None:
                try:
                    context.load_verify_locations(cafile=str(ca_file))
                except (OSError, ssl.SSLError) as e:
                    raise InvalidArgument(
                        f"can't read the CA file {ca_file} of registry {registry}: {e}", reason="BAD_CA_FILE"
                    ) from e
            self._contexts[key] = context
        return self._contexts[key]


def ca_file_of(settings: RegistrySettings, registry: str) -> Path | None:
    """The CA file configured for a registry, by host:port or by host."""
    return settings.ca_files.get(registry) or settings.ca_files.get(registry.rsplit(":", 1)[0])


async def read_capped(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body. Raises DataLoss (SIZE_MISMATCH) when it is larger than `limit` bytes, and Lost as `send` does."""
    body = await _read(response, limit + 1)
    if len(body) > limit:
        response.close()
        raise DataLoss(f"{what} is larger than {limit} bytes", reason="SIZE_MISMATCH")
    return body


async def read_refusal(response: aiohttp.ClientResponse, secrets: tuple[str, ...] = ()) -> Answer:
    """Read and close a response that is an error."""
    try:
        body = await _read(response, MAX_ERROR_BYTES)
    except Lost:
        body = b""
    finally:
        response.close() if not response.content.at_eof() else response.release()
    return read_answer(response.status, response.headers, body, secrets)


async def discard(response: aiohttp.ClientResponse) -> None:
    """Be done with a response whose body does not matter, keeping its connection when the body is short."""
    try:
        if (response.content_length or 0) <= MAX_ERROR_BYTES:
            await _read(response, MAX_ERROR_BYTES)
    except Lost:
        pass
    finally:
        response.close() if not response.content.at_eof() else response.release()


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(DOCUMENT_SECONDS):
            while len(body) < limit and (chunk := await response.content.readany()):
                body += chunk
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as e:
        host = host_port(response.url)
        raise from_exception(e, host, host) from e
    return bytes(body[:limit])
