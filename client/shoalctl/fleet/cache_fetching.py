"""A cache that a host made in a build, fetched into a directory of this machine: only what is not there travels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from shoal.errors import DataLoss
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.cache_layout import MAX_DOCUMENT_BYTES, OCI_MANIFEST, Part, members
from shoalctl.fleet.cache_writing import CacheWriter, Incoming

if TYPE_CHECKING:
    from shoalctl.fleet.host import HostClient

_ATTEMPTS = 2  # what an earlier client left may be wrong


class CacheFetch:
    """Fetches the caches of one build. `received` is told how many bytes of how many have come."""

    def __init__(self, host: HostClient, request_id: str, received: Callable[[int, int], None]) -> None:
        self._host = host
        self._request_id = request_id
        self._received = received
        self._done = self._total = 0

    async def run(self, digest: str, size: int, writer: CacheWriter, tag: str) -> None:
        """Bring what the directory lacks of the cache with this manifest, then give it the tag.

        Raises what the host does, DataLoss (DIGEST_MISMATCH, SIZE_MISMATCH), FailedPrecondition (LOCAL_WRITE_FAILED),
        InvalidArgument (BAD_CACHE).
        """
        manifest = Part(OCI_MANIFEST, digest, size)
        if size > MAX_DOCUMENT_BYTES:
            raise DataLoss(f"the manifest of the cache has {size} bytes", reason="SIZE_MISMATCH")
        async with writer.alone():
            if await asyncio.to_thread(writer.holds, manifest):
                body = await asyncio.to_thread(writer.layout.document, digest)
            else:
                body = await self._bring(manifest, writer)
            parts = list({part.digest: part for part in members(body, digest)}.values())
            lacking = [part for part in parts if not await asyncio.to_thread(writer.holds, part)]
            self._total = sum(part.size for part in lacking)
            for part in lacking:
                await self._bring(part, writer, counted=True)
            await asyncio.to_thread(writer.publish, manifest, tag, [*parts, manifest])

    async def _bring(self, part: Part, writer: CacheWriter, *, counted: bool = False) -> bytes:
        """One blob; the bytes of one that is not counted, a document."""
        with closing(await asyncio.to_thread(writer.incoming, part)) as incoming:
            for _ in range(_ATTEMPTS):
                await self._receive(part, incoming, counted=counted)
                if await asyncio.to_thread(incoming.complete):
                    return b"" if counted else await asyncio.to_thread(incoming.body)
        raise DataLoss(f"what the host sent is not {part.digest}", reason="DIGEST_MISMATCH")

    async def _receive(self, part: Part, incoming: Incoming, *, counted: bool) -> None:
        from shoal.v1 import image_pb2

        begun = self._done
        while incoming.offset < part.size:
            if counted:
                self._done = begun + incoming.offset
                self._received(self._done, self._total)
            request = image_pb2.ImageServiceReadCacheBlobRequest(
                request_id=self._request_id, digest=part.digest, offset=incoming.offset
            )
            try:
                async with aclosing(self._host.link.stream(_read, request)) as stream:  # type: ignore[type-var]
                    async for message in stream:
                        await asyncio.to_thread(incoming.write, message.chunk)
                        if counted:
                            self._done = begun + incoming.offset
                            self._received(self._done, self._total)
                return
            except LinkLost:
                await self._host.link.reconnect()


def _read(channel: Any) -> Any:
    from shoal.v1 import image_pb2_grpc

    return image_pb2_grpc.ImageServiceStub(channel).ReadCacheBlob
