"""Use case: what a container changes of its image's files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from shoald.build.stubs import DIRECTORIES, FILES
from shoald.host.layerdiff import changes
from shoald.metadata.store import Metadata
from shoald.model.container import Container
from shoald.model.insight import Change, ChangeKind
from shoald.snapshots.ports import Snapshotter

BATCH = 500


class ChangesCases:
    """Looks at writable layers."""

    def __init__(self, md: Metadata, snapshots: Snapshotter) -> None:
        self._md = md
        self._snapshots = snapshots

    async def changes(self, name: str) -> AsyncIterator[list[Change]]:
        """Batches, sorted by path over all of them. Mount points are left out, as nobody wrote there."""
        container = self._md.containers.find(name)
        parent = self._snapshots.chain(container.snapshot_id)[0].parent_id
        upper = self._snapshots.fs_path(container.snapshot_id)
        async with self._snapshots.mounted(parent) as below:
            found = await asyncio.to_thread(lambda: list(changes(upper, below)))
        kept = without_stubs((Change(ChangeKind(kind), path) for kind, path in found), container)
        for at in range(0, len(kept), BATCH):
            yield kept[at : at + BATCH]


def without_stubs(found: Iterable[Change], container: Container) -> list[Change]:
    """Without the places that the runtime mounts over, and directories that were only made for them; pure."""
    stubs = {f"/{path}" for path in (*FILES, *DIRECTORIES)} | {mount.target for mount in container.spec.mounts}
    listed = [change for change in found if change.path not in stubs and not change.path.startswith("/dev/")]
    if container.spec.init:
        listed = [change for change in listed if change.path != "/dev/init"]
    parents = {path.rpartition("/")[0] for path in stubs}
    above = {change.path.rpartition("/")[0] for change in listed}
    return [c for c in listed if not (c.path in parents and c.path not in above and c.kind is not ChangeKind.DELETED)]
