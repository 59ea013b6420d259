"""Sweeping: delete blobs and snapshots that no image, container, cache entry or lease needs.

Safe beside running pulls, builds and runs, which take a lease on what they use before they look whether it is there:
each deletion asks again, with no await between the answer and the disappearance.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition
from shoald.content.ports import ContentStore
from shoald.gc.mark import children_first, mark
from shoald.metadata import Metadata
from shoald.snapshots.ports import Snapshotter


class Collected(Struct, frozen=True):
    """What was deleted; `bytes` on disk, blobs and layers together."""

    blobs: int = 0
    snapshots: int = 0
    bytes: int = 0


async def collect(
    md: Metadata, content: ContentStore, snapshotter: Snapshotter, *, partials: bool = False
) -> Collected:
    """Delete all garbage. `partials` also gives up interrupted downloads, which a next pull would have resumed.

    Stops at the first error of the disk; what was deleted until then is consistent, and a later call goes on.
    """
    for lease in md.leases.expired():
        md.leases.release(lease)
    snapshots, layer_bytes = await _collect_snapshots(md, snapshotter)
    blobs, blob_bytes = await _collect_blobs(md, content)
    if partials:
        for digest in content.partials():
            await content.delete(digest, unless=partial(md.references.has_blob, str(digest)))
    await snapshotter.sweep()
    return Collected(blobs, snapshots, layer_bytes + blob_bytes)


async def _collect_snapshots(md: Metadata, snapshotter: Snapshotter) -> tuple[int, int]:
    parents = {each.id: each.parent_id for each in md.snapshots.all()}
    needed = mark(md.references.snapshots(), lambda each: filter(None, [parents.get(each)]))
    deleted, freed = 0, 0
    for snapshot_id in children_first(parents.keys() - needed, parents.__getitem__):
        size = await _usage(snapshotter, snapshot_id)
        # Children that came meanwhile make remove() refuse. Its row goes before its first await.
        if md.references.has_snapshot(snapshot_id) or md.snapshots.get(snapshot_id) is None:
            continue
        try:
            await snapshotter.remove(snapshot_id)
        except FailedPrecondition:
            continue
        deleted, freed = deleted + 1, freed + size
    return deleted, freed


async def _usage(snapshotter: Snapshotter, snapshot_id: str) -> int:
    try:
        return await snapshotter.usage(snapshot_id)
    except DataLoss:
        # Its directory is gone: the row is garbage all the more.
        return 0


async def _collect_blobs(md: Metadata, content: ContentStore) -> tuple[int, int]:
    needed = md.references.blobs()
    deleted, freed = 0, 0
    for digest in content.digests():
        if str(digest) in needed:
            continue
        size = content.size(digest) or 0
        if await content.delete(digest, unless=partial(md.references.has_blob, str(digest))):
            deleted, freed = deleted + 1, freed + size
    for blob in md.blobs.all():
        if not md.references.has_blob(blob.digest) and content.size(Digest.parse(blob.digest)) is None:
            md.blobs.delete(blob.digest)
    return deleted, freed
