"""Caches of builds for their clients: kept in the content store until the client has fetched what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from shoal.digest import Digest
from shoal.errors import NotFound, OutOfRange, ShoalError
from shoald.build.cacheformat import MEDIA_TYPE, written
from shoald.build.cacherecords import layers_of, packed
from shoald.build.packing import Packing
from shoald.build.solver import Build, StepLayer
from shoald.content.ports import ContentStore
from shoald.metadata import HoldKind, Metadata
from shoald.model.build import BuildWarning, CacheReady
from shoald.oci.manifest import Descriptor
from shoald.oci.mediatypes import OCI_MANIFEST

KEPT_S = 600.0
"""How long a cache is kept after the client has last asked for some of it."""


class _Kept:
    """Parts of a build's caches by digest, and the lease that holds them."""

    def __init__(self, lease: str) -> None:
        self.lease = lease
        self.digests: set[str] = set()
        self.forgetting: asyncio.TimerHandle | None = None
        self.readers = 0


class CacheExports:
    """Safe for many builds at once."""

    def __init__(self, md: Metadata, content: ContentStore, packing: Packing) -> None:
        self._md = md
        self._content = content
        self._packing = packing
        self._kept: dict[str, _Kept] = {}

    async def make(self, request_id: str, builds: Sequence[Build], results: Sequence[Sequence[StepLayer]]) -> None:
        """The caches that the request wants, of the results' layers or of all steps, for all platforms together; a
        CacheReady for each. Raises what packing does, unless errors are to be ignored."""
        build = builds[0]
        for wanted in build.request.cache_exports:
            layers = layers_of(builds, results, all_steps=wanted.all_steps)
            try:
                manifest = await self._make(request_id, layers)
            except ShoalError as error:
                if not wanted.ignore_errors:
                    error.message = f"the image was built, but not its cache for the client: {error}"
                    raise
                build.emit(BuildWarning("", f"the cache for the client was not made: {error}"))
                continue
            build.emit(CacheReady(wanted.all_steps, manifest.digest, manifest.size))

    async def _make(self, request_id: str, layers: Sequence[StepLayer]) -> Descriptor:
        kept = self._kept.get(request_id)
        if kept is None:
            kept = self._kept[request_id] = _Kept(self._md.leases.create("cache export"))
        try:
            return await self._fill(kept, layers)
        finally:
            self._wait(request_id, kept)

    async def _fill(self, kept: _Kept, layers: Sequence[StepLayer]) -> Descriptor:
        if kept.forgetting is not None:  # packing may take longer
            kept.forgetting.cancel()
        records = await packed(self._md, self._packing, layers, kept.lease)
        config, manifest = written(records)
        own = Descriptor.of(manifest, OCI_MANIFEST)
        for body, digest in ((config, Descriptor.of(config, MEDIA_TYPE).digest), (manifest, own.digest)):
            self._md.leases.hold(kept.lease, HoldKind.BLOB, digest)
            await self._content.put(body)
            kept.digests.add(digest)
        kept.digests.update(record.layer.digest for record in records)
        return own

    async def read(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """A part of a build's cache, from byte `offset` on. Raises NotFound (CACHE_NOT_FOUND, BLOB_NOT_FOUND),
        OutOfRange (OFFSET_OUT_OF_RANGE)."""
        kept = self._kept.get(request_id)
        if kept is None:
            raise NotFound(
                f"no cache of a build with request id {request_id} is kept here",
                reason="CACHE_NOT_FOUND",
                hint="it was not asked for in ten minutes, or the daemon was restarted: build again",
            )
        name = Digest.parse(digest)
        if str(name) not in kept.digests:
            raise NotFound(f"{name} is no part of the build's cache", reason="BLOB_NOT_FOUND")
        if kept.forgetting is not None:  # a large blob over a slow link takes longer
            kept.forgetting.cancel()
        kept.readers += 1
        try:
            with self._md.leases.lease("cache export") as lease:
                self._md.leases.hold(lease, HoldKind.BLOB, str(name))
                if offset > (size := self._content.size(name) or 0):
                    raise OutOfRange(f"{name} has {size} bytes, not {offset}", reason="OFFSET_OUT_OF_RANGE")
                async for chunk in self._content.stream(name, offset):
                    yield chunk
        finally:
            kept.readers -= 1
            if self._kept.get(request_id) is kept:
                self._wait(request_id, kept)

    def _wait(self, request_id: str, kept: _Kept) -> None:
        """Forget it KEPT_S from now on, or from the end of the last reader on."""
        if kept.forgetting is not None:
            kept.forgetting.cancel()
        if kept.readers:
            return
        kept.forgetting = asyncio.get_running_loop().call_later(KEPT_S, self._forget, request_id)

    def _forget(self, request_id: str) -> None:
        kept = self._kept.pop(request_id, None)
        if kept is not None:
            self._md.leases.release(kept.lease)

    def close(self) -> None:
        """Forget all."""
        for request_id, kept in list(self._kept.items()):
            if kept.forgetting is not None:
                kept.forgetting.cancel()
            self._forget(request_id)
