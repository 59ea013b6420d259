"""Downloading a blob: in big chunks, resumed where a connection broke, never a byte too many."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType

import aiohttp
from yarl import URL

from shoal.errors import DataLoss, FailedPrecondition, NotFound, ShoalError, Unavailable
from shoald.oci.manifest import Descriptor
from shoald.oci.mediatypes import is_foreign
from shoald.registry.failures import Lost, from_exception
from shoald.registry.http import Http, discard
from shoald.registry.origin import host_port
from shoald.registry.session import Session, Wire

CHUNK = 256 * 1024
PROGRESS = 1024 * 1024
"""Bytes that a connection must have brought for its loss not to count as another failure in a row."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)")


class BlobReader:
    """An async context manager that gives the chunks of a blob from `offset` on. See Registry.blob."""

    def __init__(self, wire: Wire, session: Session, descriptor: Descriptor, offset: int) -> None:
        self._wire = wire
        self._session = session
        self._descriptor = descriptor
        self._position = offset
        self._what = f"blob {descriptor.digest} of {session.ref.familiar_name}"
        self._failures = 0
        self._response: aiohttp.ClientResponse | None = None
        self._stream: AsyncGenerator[bytes, None] | None = None

    async def __aenter__(self) -> AsyncIterator[bytes]:
        if not 0 <= self._position <= self._descriptor.size:
            raise ValueError(f"offset {self._position} of {self._descriptor.size} bytes")
        if self._position < self._descriptor.size or self._descriptor.size == 0:
            self._response = await self._connect()
        self._stream = self._chunks()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._stream is not None:
            await self._stream.aclose()

    def _close(self) -> None:
        # Closing, not releasing: an abandoned body would be read to its end, whatever its length.
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Read connection after connection until all bytes are there."""
        size = self._descriptor.size
        while self._response is not None:
            start = self._position
            try:
                async with aclosing(self._read(self._response)) as chunks:
                    async for chunk in chunks:
                        self._position += len(chunk)
                        yield chunk
                if self._position == size:
                    self._response.release()
                    self._response = None
                    return
                raise Lost(self._truncated())
            except Lost as e:
                self._close()
                self._failures = 0 if self._position - start >= PROGRESS else self._failures + 1
                if self._failures >= self._wire.settings.attempts:
                    raise self._given_up(e) from e
            await self._wire.pause(max(0, self._failures - 1))
            self._response = await self._connect()

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The bytes of one response in chunks, and what is left of them when it breaks."""
        parts: list[bytes] = []
        held = 0
        left = self._descriptor.size - self._position
        try:
            while part := await response.content.readany():
                held += len(part)
                if held > left:
                    raise self._mismatch(f"is longer than {self._descriptor.size} bytes")
                parts.append(part)
                if held >= CHUNK:
                    left -= held
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                    parts, held = [], 0
            failure: Exception | None = None
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as e:
            failure = e
        if parts:
            yield b"".join(parts)
        if failure is not None:
            raise from_exception(failure, self._session.registry, host_port(response.url)) from failure

    async def _connect(self) -> aiohttp.ClientResponse:
        """Open the blob at the current position."""
        headers = {"Accept": "*/*"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        response = await self._session.call("GET", f"blobs/{self._descriptor.digest}", headers=headers)
        if response.status == 404 and is_foreign(self._descriptor.media_type):
            await discard(response)
            response = await self._foreign(headers)
        return await self._checked(response)

    async def _checked(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """The response, standing at the current position."""
        size = self._descriptor.size
        if response.status not in (200, 206):
            missing = NotFound(f"{self._what} not found on {self._session.registry}", reason="BLOB_NOT_FOUND")
            if response.status == 416:
                response.close()
                raise self._mismatch(f"is shorter than {size} bytes")
            raise await self._session.fail(response, self._what, missing)
        expected, skip = size, self._position
        if response.status == 206:
            found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._position:
                response.close()
                raise Unavailable(f"{self._what}: registry sent another range than asked", reason="REGISTRY_ERROR")
            expected, skip = size - self._position, 0
        if response.content_length is not None and response.content_length != expected:
            response.close()
            raise self._mismatch(f"has {response.content_length} bytes to come, not {expected}")
        if skip:
            await self._skip(response, skip)
        return response

    async def _skip(self, response: aiohttp.ClientResponse, count: int) -> None:
        """Pass over what we have already: the registry ignored the range."""
        try:
            while count:
                part = await response.content.read(min(count, CHUNK))
                if not part:
                    raise self._mismatch(f"is shorter than {self._position} bytes")
                count -= len(part)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as e:
            found = from_exception(e, self._session.registry, host_port(response.url))
            raise (found.error if isinstance(found, Lost) else found) from e
        finally:
            if count:
                response.close()

    async def _foreign(self, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Fetch from the descriptor's own urls, if that is allowed: anonymously, over https, without redirects."""
        if not self._wire.settings.foreign_urls or not self._descriptor.urls:
            raise FailedPrecondition(
                f"{self._what} is a foreign layer: the registry does not have it",
                reason="FOREIGN_LAYER",
                hint="foreign layers are fetched from other hosts only when the daemon's configuration allows it",
            )
        failure: ShoalError | None = None
        for text in self._descriptor.urls[:5]:
            try:
                return await _fetch_foreign(self._wire.http, text, headers)
            except Lost as e:
                failure = e.error
            except ShoalError as e:
                failure = e
        raise failure or NotFound(f"{self._what} has no urls", reason="BLOB_NOT_FOUND")

    def _given_up(self, last: Lost) -> ShoalError:
        return self._truncated() if isinstance(last.__cause__, aiohttp.ClientPayloadError) else last.error

    def _truncated(self) -> DataLoss:
        return self._mismatch(f"ends after {self._position} of {self._descriptor.size} bytes, again and again")

    def _mismatch(self, what: str) -> DataLoss:
        return DataLoss(
            f"{self._what} {what}",
            reason="SIZE_MISMATCH",
            hint="the registry's copy is damaged: push the image again, or pull it from elsewhere",
            metadata={"digest": self._descriptor.digest},
        )


async def _fetch_foreign(http: Http, text: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme != "https" or not url.host or url.user or url.password:
        raise FailedPrecondition("a foreign layer's url must be https", reason="FOREIGN_LAYER")
    return await http.send("GET", url, registry=host_port(url), headers=headers)
