"""Protocol of a snapshotter. Contract suite: tests/contract/test_snapshots.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from shoald.model.snapshot import Snapshot


class Snapshotter(Protocol):
    """Layers on disk. Rows live in metadata; a directory without a row is garbage (see sweep)."""

    async def create_layer(self, parent_id: str | None, *, uid_base: int = 0, lease: str | None = None) -> Snapshot:
        """A new active snapshot with an empty `fs`, for an unpacker or a COPY step to fill (raw, or mounted).

        Mode and owner of `fs` are those of the parent's. The lease holds it from the first moment."""

    async def create_writable(self, parent_id: str | None, *, uid_base: int, lease: str | None = None) -> Snapshot:
        """A new active snapshot to be the upper layer of a container: `fs` owned by `uid_base` + the parent's owner.

        Without a lease, insert the container before the next await."""

    async def commit(
        self,
        snapshot_id: str,
        *,
        chain_id: str | None = None,
        diff_id: str | None = None,
        size_bytes: int | None = None,
        durable: bool = True,
    ) -> Snapshot:
        """Make it read-only content (size None: measured). With a chain id that exists already, the new one is removed
        and the existing returned. `durable` writes the file system to disk before the row says committed; without it,
        the caller has done so (see sync) or the content can be made again. It must not be mounted."""

    async def sync(self) -> None:
        """Make all layers' files durable: once for several commits with durable=False."""

    def fs_path(self, snapshot_id: str) -> Path:
        """The directory that holds this layer's own files (with overlay whiteouts)."""

    def chain(self, snapshot_id: str | None) -> Sequence[Snapshot]:
        """The snapshot and its ancestors, top first."""

    async def mount(
        self, snapshot_id: str, target: Path, *, uid_base: int, read_only: bool = False, volatile: bool = False
    ) -> None:
        """Mount the whole file system at `target` (which exists): the active snapshot as upper, its ancestors below,
        each seen with ids shifted from its own uid_base to `uid_base` (idmapped mounts). A committed snapshot mounts
        read-only. `volatile`: nothing is synced to the disk, neither for the programs inside nor when it is unmounted;
        for layers that a crash ends, or that are synced before they are needed. Raises Unimplemented
        (IDMAP_UNSUPPORTED) where the kernel can't and ids differ."""

    async def unmount(self, target: Path) -> None:
        """Unmount; nothing mounted there is fine."""

    def mounted(
        self, snapshot_id: str | None, *, uid_base: int = 0, read_only: bool = True
    ) -> AbstractAsyncContextManager[Path]:
        """Mount at a private place for the time of the context (None: an empty directory)."""

    async def usage(self, snapshot_id: str) -> int:
        """Bytes of this layer's own files."""

    async def remove(self, snapshot_id: str) -> None:
        """Delete row, then directory. Missing is fine. Raises FailedPrecondition (SNAPSHOT_HAS_CHILDREN;
        SNAPSHOT_IN_USE by a container that is not being created or removed)."""

    async def sweep(self) -> int:
        """Delete directories without a row; returns how many. For start-up and prune."""
