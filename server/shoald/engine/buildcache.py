"""Use cases of the build cache: what there is, and pruning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from shoal.errors import ShoalError
from shoald.build.cachemounts import CacheMounts
from shoald.build.contexts import Contexts
from shoald.gc import Collected, mark
from shoald.metadata.store import Metadata
from shoald.model.buildcache import CacheKind, CachePrune, CachePruned, CacheRecord

log = structlog.get_logger(__name__)


class BuildCacheCases:
    """List and prune. What builds at work need stays."""

    def __init__(
        self, md: Metadata, mounts: CacheMounts, contexts: Contexts, collect: Callable[[], Awaitable[Collected]]
    ) -> None:
        self._md = md
        self._mounts = mounts
        self._contexts = contexts
        self._collect = collect

    async def records(self) -> Sequence[CacheRecord]:
        """The least recently used first."""
        kept = await asyncio.to_thread(lambda: [*self._mounts.records(), *self._contexts.records()])
        records = [*self._layers(), *kept]
        return sorted(records, key=lambda record: (record.last_used_at, record.id))

    def _layers(self) -> list[CacheRecord]:
        parents = {each.id: each.parent_id for each in self._md.snapshots.all()}
        roots = self._md.references.snapshots_in_images_and_containers()
        shared = mark(roots, lambda each: filter(None, [parents.get(each)]))
        held = self._md.references.held_snapshots()
        return [
            CacheRecord(
                id=entry.key.removeprefix("sha256:"),
                kind=CacheKind.LAYER,
                description=entry.description,
                size_bytes=entry.size_bytes,
                created_at=entry.created_at,
                last_used_at=entry.last_used_at,
                use_count=entry.use_count,
                shared=entry.snapshot_id in shared,
                in_use=entry.snapshot_id in held,
            )
            for entry in self._md.cache.all()
        ]

    async def keep_within(self, limit: Callable[[], int], every_s: float = 3600.0) -> None:
        """Prune what is beyond the limit from time to time, until cancelled; 0 or less is no limit. What images have is
        not counted."""
        while True:
            await asyncio.sleep(every_s)
            try:
                most = limit()
                if most > 0:
                    pruned = await self.prune(CachePrune(keep_bytes=most))
                    log.info("build_cache_limited", records=len(pruned.ids), freed_bytes=pruned.freed_bytes)
            except (ShoalError, OSError) as error:
                log.error("build_cache_not_limited", error=str(error))

    async def prune(self, wanted: CachePrune) -> CachePruned:
        """Delete what `wanted` names. A step of a build at work keeps its layer, also when its entry goes."""
        records = [
            record
            for record in await self.records()
            if not record.in_use
            and (wanted.everything or not record.shared)
            and (wanted.unused_since is None or record.last_used_at < wanted.unused_since)
        ]
        excess = sum(record.size_bytes for record in records) - wanted.keep_bytes
        gone: list[str] = []
        freed = 0
        for record in records:
            if wanted.keep_bytes and excess <= 0:
                break
            excess -= record.size_bytes
            if record.kind is CacheKind.LAYER:
                if self._md.cache.delete(f"sha256:{record.id}"):
                    gone.append(record.id)
            elif await (self._mounts if record.kind is CacheKind.MOUNT else self._contexts).remove(record.id):
                gone.append(record.id)
                freed += record.size_bytes
        if gone:
            freed += (await self._collect()).bytes
        return CachePruned(tuple(gone), freed)
