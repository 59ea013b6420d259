"""Use case: what a container changes of its image's files."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator

from shoald.build.stubs import DIRECTORIES, FILES
from shoald.host.blocking import in_thread
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
        """Batches, in the order of paths over all of them. Mount points are left out, as nobody wrote there."""
        container = self._md.containers.find(name)
        parent = self._snapshots.chain(container.snapshot_id)[0].parent_id
        upper = self._snapshots.fs_path(container.snapshot_id)
        async with self._snapshots.mounted(parent) as below:
            walk = changes(upper, below)
            found = without_stubs((Change(ChangeKind(kind), path) for kind, path in walk), container)
            try:
                while batch := await in_thread(lambda: list(itertools.islice(found, BATCH))):
                    yield batch
            finally:
                walk.close()  # type: ignore[attr-defined]


def without_stubs(found: Iterable[Change], container: Container) -> Iterator[Change]:
    """Without the places that the runtime mounts over, and directories that were only made for them; pure.

    A directory comes before what is in it: one that may be of no interest is held back until something in it is.
    """
    stubs = {f"/{path}" for path in (*FILES, *DIRECTORIES)} | {mount.target for mount in container.spec.mounts}
    parents = {above for path in stubs for above in _above(path)}
    held: list[Change] = []
    for change in found:
        held = [each for each in held if change.path.startswith(f"{each.path}/")]
        if change.path in stubs or change.path.startswith(("/dev/", "/proc/", "/sys/")):
            continue
        if change.path in parents and change.kind is not ChangeKind.DELETED:
            held.append(change)
            continue
        yield from held
        held = []
        yield change


def _above(path: str) -> Iterator[str]:
    while (path := path.rpartition("/")[0]) != "":
        yield path
