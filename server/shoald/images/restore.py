"""A single layer from a registry onto a snapshot that is here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from shoald.host.blocking import in_thread, to_end
from shoald.host.inherit import Below, hide_all, inherit_directories
from shoald.images.layerfetch import LayerFetcher, Origin, Staged
from shoald.images.progress import Meter
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Progress
from shoald.model.snapshot import Snapshot
from shoald.snapshots.ports import Snapshotter


class LayerRestorer:
    """Makes committed snapshots of layers of registries."""

    def __init__(self, md: Metadata, snapshots: Snapshotter, fetcher: LayerFetcher) -> None:
        self._md = md
        self._snapshots = snapshots
        self._fetcher = fetcher

    async def restore(
        self, origin: Origin, parent_id: str | None, lease: str, emit: Callable[[Progress], None]
    ) -> Snapshot:
        """The layer over `parent_id`, held by the lease with its blob. Leaves nothing behind when it fails.

        Raises as LayerFetcher.fetch.
        """
        descriptor = origin.descriptor
        staged = await self._fetcher.fetch(origin, Meter(descriptor.digest, descriptor.size, emit))
        try:
            return await to_end(self._commit(staged, origin, parent_id, lease))
        finally:
            await to_end(self._fetcher.drop(staged))

    async def _commit(self, staged: Staged, origin: Origin, parent_id: str | None, lease: str) -> Snapshot:
        below = [Below(self._snapshots.fs_path(each.id), each.uid_base) for each in self._snapshots.chain(parent_id)]
        own, unpacked = self._snapshots.fs_path(staged.snapshot.id), staged.unpacked
        if below and unpacked.opaque_root:
            await in_thread(partial(hide_all, own, below))
        elif below and unpacked.implicit:
            await in_thread(partial(inherit_directories, own, below, unpacked.implicit))
        self._md.leases.hold(lease, HoldKind.BLOB, str(origin.digest))
        self._md.leases.hold(lease, HoldKind.SNAPSHOT, staged.snapshot.id)
        self._md.snapshots.adopt(staged.snapshot.id, parent_id)
        self._md.blobs.add(str(origin.digest), origin.descriptor.size, origin.descriptor.media_type)
        return await self._snapshots.commit(staged.snapshot.id, size_bytes=unpacked.content_bytes)
