"""Uploading a blob: mounted from a neighbour, in one piece, or in chunks where a registry takes no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from shoal.errors import DataLoss, ShoalError
from shoald.oci.manifest import Descriptor
from shoald.registry.failures import RETRIED, Lost, to_error
from shoald.registry.http import discard, read_refusal
from shoald.registry.ports import OpenBody, Progress
from shoald.registry.session import Session, Wire
from shoald.registry.tokens import secrets_of

CHUNK = 16 * 1024 * 1024
"""Bytes in a PATCH, unless the registry asks for more (OCI-Chunk-Min-Length)."""
MAX_CHUNK = 64 * 1024 * 1024
_WANTS_CHUNKS = frozenset({405, 411, 413, 415, 501})


class Upload:
    """One blob on its way to a repository."""

    def __init__(
        self, wire: Wire, session: Session, descriptor: Descriptor, open_body: OpenBody, progress: Progress | None
    ) -> None:
        self._wire = wire
        self._session = session
        self._descriptor = descriptor
        self._open_body = open_body
        self._progress = progress or (lambda _: None)
        self._chunk = CHUNK
        self._broken: Exception | None = None
        self._what = f"push of blob {descriptor.digest} to {session.ref.familiar_name}"

    async def run(self, mount_from: str | None) -> bool:
        """Mount or send; False when it was mounted. Raises as Registry.push_blob does."""
        location = await self._begin(mount_from)
        if location is None:
            return False
        for attempt in range(self._wire.settings.attempts):
            failure, retry_after = await self._try_send(location)
            if failure is None:
                self._progress(self._descriptor.size)
                return True
            if attempt == self._wire.settings.attempts - 1:
                break
            await self._wire.pause(attempt, retry_after)
            location = await self._restart()
        assert failure is not None
        raise failure

    async def _begin(self, mount_from: str | None) -> URL | None:
        """Start an upload and return where to send the blob; None when it could be mounted instead."""
        query = f"?mount={self._descriptor.digest}&from={mount_from}" if mount_from else ""
        response = await self._session.call("POST", "blobs/uploads/" + query, body=lambda: b"")
        if response.status == 201 and mount_from:
            await discard(response)
            return None
        if response.status != 202:
            if mount_from:
                # Some registries refuse a mount that they can't do instead of starting an upload.
                await discard(response)
                return await self._restart()
            raise await self._session.fail(response, self._what)
        location = await self._session.location(response)
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        self._chunk = max(CHUNK, min(int(least), MAX_CHUNK)) if least.isdecimal() and len(least) < 12 else CHUNK
        await discard(response)
        return location

    async def _restart(self) -> URL:
        location = await self._begin(None)
        assert location is not None
        return location

    async def _try_send(self, location: URL) -> tuple[ShoalError | None, float | None]:
        """Send it all once: (None, None) when done, else a failure that another try may cure and its Retry-After."""
        try:
            response = await self._put(location)
            if response.status in _WANTS_CHUNKS:
                await discard(response)
                response = await self._patch(await self._restart())
        except Lost as e:
            if self._broken is not None:
                raise self._broken from e
            return e.error, None
        if response.status in (201, 204):
            await discard(response)
            return None, None
        answer = await read_refusal(response, secrets_of(self._session.credentials))
        failure = to_error(answer, self._session.registry, self._what)
        # A 404 is an upload session that the registry has forgotten.
        if answer.status in RETRIED or answer.status == 404:
            return failure, answer.retry_after
        raise failure

    async def _put(self, location: URL) -> aiohttp.ClientResponse:
        """POST then PUT (distribution-spec, "Pushing a blob monolithically")."""
        return await self._session.call(
            "PUT",
            self._closing(location),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(self._descriptor.size)},
            body=self._body if self._descriptor.size else lambda: b"",
            retry=False,
        )

    async def _patch(self, location: URL) -> aiohttp.ClientResponse:
        """POST, PATCHes, PUT (distribution-spec, "Pushing a blob in chunks")."""
        position, held = 0, bytearray()
        async for part in self._body():
            held += part
            while len(held) >= self._chunk:
                location = await self._send_chunk(location, bytes(held[: self._chunk]), position)
                position += self._chunk
                del held[: self._chunk]
        if held:
            location = await self._send_chunk(location, bytes(held), position)
        return await self._session.call("PUT", self._closing(location), body=lambda: b"", retry=False)

    async def _send_chunk(self, location: URL, chunk: bytes, position: int) -> URL:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{position}-{position + len(chunk) - 1}",
        }
        response = await self._session.call("PATCH", location, headers=headers, body=lambda: chunk, retry=False)
        if response.status not in (202, 204):
            raise await self._session.fail(response, self._what)
        following = await self._session.location(response)
        await discard(response)
        return following

    async def _body(self) -> AsyncIterator[bytes]:
        """The content, counted: fails before a byte too many is sent, or at a byte too few.

        The failure is kept as well, since aiohttp only tells that the connection broke.
        """
        try:
            async for part in self._counted():
                yield part
        except Exception as e:
            self._broken = e
            raise

    async def _counted(self) -> AsyncIterator[bytes]:
        sent, size = 0, self._descriptor.size
        async for part in self._open_body():
            sent += len(part)
            if sent > size:
                raise self._mismatch(f"more than {size}")
            yield part
            self._progress(sent)
        if sent != size:
            raise self._mismatch(f"{sent} instead of {size}")

    def _closing(self, location: URL) -> URL:
        # Appended by hand: the rest of the address may be signed and must stay as it is.
        separator = "&" if location.raw_query_string else "?"
        return URL(f"{str(location).rstrip('?')}{separator}digest={self._descriptor.digest}", encoded=True)

    def _mismatch(self, what: str) -> DataLoss:
        return DataLoss(f"{self._what}: the content has {what} bytes", reason="SIZE_MISMATCH")
