"""Snapshots as overlayfs layers: `<root>/<id>/fs` holds a layer's own files, `<id>/work` is the kernel's.

A directory without a row is garbage, a row without a directory is a bug: directories are made before their rows and
removed after them. What is removed is first renamed to `.trash-<id>`: a half removed layer is never mistaken for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ShoalError, Unimplemented
from shoald.host import mounts
from shoald.host.blocking import in_thread, to_end
from shoald.host.files import sync_file_system
from shoald.host.overlayfs import LowerLayer, overlay
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree, tree_size
from shoald.host.userns import IdMap, UserNamespaces
from shoald.metadata import HoldKind, Metadata
from shoald.metadata.rows import now
from shoald.model.snapshot import Snapshot

IDS = 65536
"""Ids that a layer can hold: what an image's files may be owned by."""

_TRASH = ".trash-"
_EMPTY = ".empty"
_UNMAPPABLE = {errno.errorcode[code] for code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)}


class OverlaySnapshotter:
    """Implements Snapshotter. `root` is on the file system of the layers, `mount_dir` holds private mount points."""

    def __init__(self, md: Metadata, root: Path, mount_dir: Path, namespaces: UserNamespaces) -> None:
        self._md = md
        self._root = root
        self._mount_dir = mount_dir
        self._namespaces = namespaces
        self._removing: set[str] = set()
        self._empty = root / _EMPTY
        # 0700: layers hold set-user-id programs that the host's users must not reach.
        with translated("make snapshot directory"):
            for directory in (root, mount_dir):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._empty.mkdir(exist_ok=True, mode=0o755)

    async def create_layer(self, parent_id: str | None, *, uid_base: int = 0, lease: str | None = None) -> Snapshot:
        """A new active snapshot with an empty `fs`. Raises NotFound (SNAPSHOT_NOT_FOUND), ResourceExhausted."""
        return self._create(parent_id, uid_base, lease)

    async def create_writable(self, parent_id: str | None, *, uid_base: int, lease: str | None = None) -> Snapshot:
        """A new active snapshot for a container. As create_layer; FailedPrecondition (SNAPSHOT_NOT_COMMITTED)."""
        parent = self._md.snapshots.get(parent_id) if parent_id is not None else None
        if parent is not None and not parent.committed:
            raise FailedPrecondition(f"snapshot {parent.id} is not committed", reason="SNAPSHOT_NOT_COMMITTED")
        return self._create(parent_id, uid_base, lease)

    def _create(self, parent_id: str | None, uid_base: int, lease: str | None) -> Snapshot:
        # No await: sweep() never sees the directory without its row.
        parent = self._md.snapshots.chain(parent_id)[0] if parent_id is not None else None
        snapshot = Snapshot(secrets.token_hex(7), parent_id, False, uid_base, now())
        directory = self._root / snapshot.id
        try:
            with translated("create snapshot"):
                self._make_directories(directory, parent, uid_base)
            with self._md.transaction():
                self._md.snapshots.insert(snapshot)
                if lease is not None:
                    self._md.leases.hold(lease, HoldKind.SNAPSHOT, snapshot.id)
        except BaseException:
            remove_tree(directory)
            raise
        return snapshot

    def _make_directories(self, directory: Path, parent: Snapshot | None, uid_base: int) -> None:
        """The root of a file system looks like its parent's until somebody changes it."""
        mode, uid, gid = 0o755, uid_base, uid_base
        if parent is not None:
            found = self._stat_fs(parent)
            mode = stat.S_IMODE(found.st_mode)
            uid, gid = (uid_base + _image_id(owner, parent) for owner in (found.st_uid, found.st_gid))
        directory.mkdir(mode=0o700)
        for path, its_mode in ((directory / "fs", mode), (directory / "work", 0o700)):
            path.mkdir(mode=0o700)
            os.chown(path, uid, gid)
            path.chmod(its_mode)

    def _stat_fs(self, snapshot: Snapshot) -> os.stat_result:
        try:
            return self.fs_path(snapshot.id).lstat()
        except FileNotFoundError:
            raise _lost(snapshot) from None

    async def commit(
        self,
        snapshot_id: str,
        *,
        chain_id: str | None = None,
        diff_id: str | None = None,
        size_bytes: int | None = None,
        durable: bool = True,
    ) -> Snapshot:
        """Make it read-only content; see Snapshotter. It must not be mounted. Raises NotFound (SNAPSHOT_NOT_FOUND)."""
        if self._md.snapshots.get(snapshot_id) is None:
            raise NotFound(f"no such snapshot: {snapshot_id}", reason="SNAPSHOT_NOT_FOUND")
        existing = self._existing(snapshot_id, chain_id)
        if existing is None:
            if size_bytes is None:
                size_bytes = await self.usage(snapshot_id)
            await in_thread(lambda: remove_tree(self._root / snapshot_id / "work"))
            if durable:
                await self.sync()
            # Looked up again: another task may have committed the same layer meanwhile.
            existing = self._existing(snapshot_id, chain_id)
        if existing is None:
            return self._md.snapshots.commit(snapshot_id, chain_id, diff_id, size_bytes)
        await self.remove(snapshot_id)
        return existing

    def _existing(self, snapshot_id: str, chain_id: str | None) -> Snapshot | None:
        found = self._md.snapshots.by_chain(chain_id) if chain_id is not None else None
        return found if found is not None and found.id != snapshot_id else None

    async def sync(self) -> None:
        """Make all layers' files durable (one syncfs)."""
        await in_thread(lambda: sync_file_system(self._root))

    def fs_path(self, snapshot_id: str) -> Path:
        """The directory that holds this layer's own files (with overlay whiteouts)."""
        return self._root / snapshot_id / "fs"

    def chain(self, snapshot_id: str | None) -> Sequence[Snapshot]:
        """The snapshot and its ancestors, top first. Raises NotFound (SNAPSHOT_NOT_FOUND)."""
        return self._md.snapshots.chain(snapshot_id) if snapshot_id is not None else []

    async def mount(
        self, snapshot_id: str, target: Path, *, uid_base: int, read_only: bool = False, volatile: bool = False
    ) -> None:
        """Mount the whole file system at `target`; see Snapshotter. Nothing is mounted when this raises.

        Raises NotFound (SNAPSHOT_NOT_FOUND), DataLoss (SNAPSHOT_LOST), Unimplemented (IDMAP_UNSUPPORTED),
        InvalidArgument (UPPER_ID_MISMATCH: a writable mount with other ids than the snapshot was made for;
        TOO_MANY_LAYERS).
        """
        top, *below = self._md.snapshots.chain(snapshot_id)
        writable = not top.committed and not read_only
        if writable and top.uid_base != uid_base:
            raise InvalidArgument(
                f"snapshot {top.id} was made for ids from {top.uid_base}, not {uid_base}", reason="UPPER_ID_MISMATCH"
            )
        lowers = [self._lower(each, uid_base) for each in (below if writable else (top, *below))]
        lowers = lowers or [LowerLayer(self._empty)]
        upper = self.fs_path(top.id) if writable else None
        await self._overlay(target, lowers, upper, volatile=volatile)

    def _lower(self, snapshot: Snapshot, uid_base: int) -> LowerLayer:
        self._stat_fs(snapshot)
        differs = snapshot.uid_base != uid_base
        return LowerLayer(self.fs_path(snapshot.id), IdMap(snapshot.uid_base, uid_base, IDS) if differs else None)

    async def _overlay(self, target: Path, lowers: Sequence[LowerLayer], upper: Path | None, *, volatile: bool) -> None:
        work = upper.with_name("work") if upper is not None else None
        if work is not None:
            _forget_volatile(work)
        idmaps = {lower.idmap for lower in lowers if lower.idmap is not None}
        async with self._namespaces.hold(idmaps) as userns:
            try:
                await in_thread(lambda: overlay(target, lowers, upper, work, userns=userns, volatile=volatile))
            except asyncio.CancelledError:
                # It was mounted all the same.
                await to_end(self.unmount(target))
                raise
            except ShoalError as error:
                if idmaps and error.metadata.get("errno") in _UNMAPPABLE:
                    raise Unimplemented(
                        f"the kernel can't map ids of layers on the file system of {self._root}: {error}",
                        reason="IDMAP_UNSUPPORTED",
                        hint="use Linux 5.19 or newer on ext4, xfs or btrfs, or run with `--userns host`",
                        metadata=error.metadata,
                    ) from error
                raise

    async def unmount(self, target: Path) -> None:
        """Unmount; nothing mounted there is fine. What still uses it keeps it, out of sight, until it ends."""
        await in_thread(lambda: _unmount(target))

    @contextlib.asynccontextmanager
    async def mounted(
        self, snapshot_id: str | None, *, uid_base: int = 0, read_only: bool = True
    ) -> AsyncIterator[Path]:
        """Mount at a private place for the time of the context (None: an empty directory). Raises as `mount` does."""
        target = self._mount_dir / secrets.token_hex(7)
        with translated("make mount point"):
            target.mkdir(mode=0o755)
        try:
            if snapshot_id is not None:
                await self.mount(snapshot_id, target, uid_base=uid_base, read_only=read_only)
            yield target
        finally:
            await in_thread(lambda: _unmount_and_remove(target))

    async def usage(self, snapshot_id: str) -> int:
        """Bytes of this layer's own files. Raises DataLoss (SNAPSHOT_LOST)."""
        try:
            size = await in_thread(lambda: tree_size(self.fs_path(snapshot_id)))
        except NotFound as error:
            raise DataLoss(f"the files of snapshot {snapshot_id} are gone", reason="SNAPSHOT_LOST") from error
        return size.apparent

    async def remove(self, snapshot_id: str) -> None:
        """Delete row, then directory; see Snapshotter."""
        directory = self._root / snapshot_id
        # Ids are our own hex, but this one deletes: let nothing climb out.
        if directory.parent != self._root or snapshot_id.startswith("."):
            raise InvalidArgument(f"bad snapshot id {snapshot_id!r}", reason="INVALID_SNAPSHOT_ID")
        if self._md.snapshots.delete(snapshot_id):
            self._removing.add(snapshot_id)
            try:
                await in_thread(lambda: self._discard(directory))
            finally:
                self._removing.discard(snapshot_id)

    def _discard(self, directory: Path) -> None:
        # A power cut must not bring back a row whose files are gone.
        self._md.flush()
        trash = self._root / f"{_TRASH}{directory.name}"
        with translated("remove snapshot"):
            try:
                os.rename(directory, trash)
            except FileNotFoundError:
                return
        remove_tree(trash)

    async def sweep(self) -> int:
        """Delete directories without a row, but for those being removed now; returns how many. Safe at any time."""
        known = self._md.snapshots.ids() | self._removing | {_EMPTY}
        with translated("list snapshots"), os.scandir(self._root) as entries:
            garbage = [Path(entry.path) for entry in entries if entry.name.removeprefix(_TRASH) not in known]
        for path in garbage:
            await in_thread(functools.partial(remove_tree, path))
        return len(garbage)

    async def recover(self) -> None:
        """For the start of a daemon: undo the private mounts of the one before."""
        await in_thread(lambda: _clear(self._mount_dir))

    def lost(self) -> Sequence[str]:
        """Ids of rows whose directory is gone: damage that only a pull or a removal repairs."""
        return [each.id for each in self._md.snapshots.all() if not self.fs_path(each.id).is_dir()]


def _image_id(owner: int, snapshot: Snapshot) -> int:
    """An owner on disk as the image means it; 0 for one that the image can't mean."""
    return owner - snapshot.uid_base if owner - snapshot.uid_base in range(IDS) else 0


def _unmount(target: Path) -> None:
    # Lazy: a process that the container left behind must not keep its removal from going on.
    while mounts.unmount(target, detach=True):
        pass


def _forget_volatile(work: Path) -> None:
    """Let an upper be mounted again that was volatile: the kernel refuses it, as after a crash its files may be torn.
    Here a crash is the end of such a layer, so this was the same boot and nothing is lost."""
    mark = work / "work" / "incompat" / "volatile"
    if mark.exists():
        remove_tree(mark)


def _unmount_and_remove(target: Path) -> None:
    _unmount(target)
    with translated("remove mount point"), contextlib.suppress(FileNotFoundError):
        target.rmdir()


def _clear(directory: Path) -> None:
    mounts.unmount_tree(directory, detach=True)
    with translated("clear mount points"), os.scandir(directory) as entries:
        for entry in entries:
            os.rmdir(entry.path)


def _lost(snapshot: Snapshot) -> DataLoss:
    return DataLoss(
        f"the files of snapshot {snapshot.id} are gone",
        reason="SNAPSHOT_LOST",
        hint="remove the image and pull it again",
        metadata={"snapshot": snapshot.id},
    )
