"""A snapshotter of plain directories, without root: a mount is a copy. Passes the part of
tests/contract/test_snapshots.py that needs no kernel: no owners, no whiteouts."""

from __future__ import annotations

import contextlib
import filecmp
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from shoald.metadata import HoldKind, Metadata
from shoald.metadata.rows import now
from shoald.model.snapshot import Snapshot


class PlainSnapshotter:
    """Implements Snapshotter."""

    def __init__(self, md: Metadata, root: Path) -> None:
        self._md = md
        self._root = root
        self.mounts: dict[Path, tuple[str, bool]] = {}
        root.mkdir(parents=True, exist_ok=True)

    async def create_layer(self, parent_id: str | None, *, uid_base: int = 0, lease: str | None = None) -> Snapshot:
        snapshot = Snapshot(secrets.token_hex(7), parent_id, False, uid_base, now())
        with self._md.transaction():
            self._md.snapshots.insert(snapshot)
            if lease is not None:
                self._md.leases.hold(lease, HoldKind.SNAPSHOT, snapshot.id)
        self.fs_path(snapshot.id).mkdir(parents=True)
        return snapshot

    async def create_writable(self, parent_id: str | None, *, uid_base: int, lease: str | None = None) -> Snapshot:
        if parent_id is not None and not self._md.snapshots.chain(parent_id)[0].committed:
            raise FailedPrecondition(f"{parent_id} is not committed", reason="SNAPSHOT_NOT_COMMITTED")
        return await self.create_layer(parent_id, uid_base=uid_base, lease=lease)

    async def commit(
        self,
        snapshot_id: str,
        *,
        chain_id: str | None = None,
        diff_id: str | None = None,
        size_bytes: int | None = None,
        durable: bool = True,
    ) -> Snapshot:
        if self._md.snapshots.get(snapshot_id) is None:
            raise NotFound(f"no such snapshot: {snapshot_id}", reason="SNAPSHOT_NOT_FOUND")
        existing = self._md.snapshots.by_chain(chain_id) if chain_id else None
        if existing is not None and existing.id != snapshot_id:
            await self.remove(snapshot_id)
            return existing
        size = await self.usage(snapshot_id) if size_bytes is None else size_bytes
        return self._md.snapshots.commit(snapshot_id, chain_id, diff_id, size)

    async def sync(self) -> None:
        pass

    def fs_path(self, snapshot_id: str) -> Path:
        return self._root / snapshot_id / "fs"

    def chain(self, snapshot_id: str | None) -> Sequence[Snapshot]:
        return self._md.snapshots.chain(snapshot_id) if snapshot_id is not None else []

    async def mount(
        self, snapshot_id: str, target: Path, *, uid_base: int, read_only: bool = False, volatile: bool = False
    ) -> None:
        chain = self._md.snapshots.chain(snapshot_id)
        writable = not chain[0].committed and not read_only
        if writable and chain[0].uid_base != uid_base:
            raise InvalidArgument("other ids", reason="UPPER_ID_MISMATCH")
        for each in reversed(chain):
            if not self.fs_path(each.id).is_dir():
                raise DataLoss(f"the files of {each.id} are gone", reason="SNAPSHOT_LOST")
            shutil.copytree(self.fs_path(each.id), target, symlinks=True, dirs_exist_ok=True)
        self.mounts[target] = (snapshot_id, writable)

    async def unmount(self, target: Path) -> None:
        snapshot_id, writable = self.mounts.pop(target, ("", False))
        if not snapshot_id:
            return
        if writable:
            self._keep_changes(snapshot_id, target)
        for entry in target.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _keep_changes(self, snapshot_id: str, target: Path) -> None:
        upper, *lowers = (self.fs_path(each.id) for each in self._md.snapshots.chain(snapshot_id))
        for path in sorted(target.rglob("*")):
            name = path.relative_to(target)
            below = next((lower / name for lower in lowers if (lower / name).exists()), None)
            if path.is_dir():
                if below is None:
                    (upper / name).mkdir(parents=True, exist_ok=True)
            elif below is None or not filecmp.cmp(path, below, shallow=False):
                (upper / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, upper / name, follow_symlinks=False)

    @contextlib.asynccontextmanager
    async def mounted(
        self, snapshot_id: str | None, *, uid_base: int = 0, read_only: bool = True
    ) -> AsyncIterator[Path]:
        target = self._root / ".mounts" / secrets.token_hex(7)
        target.mkdir(parents=True)
        try:
            if snapshot_id is not None:
                await self.mount(snapshot_id, target, uid_base=uid_base, read_only=read_only)
            yield target
        finally:
            await self.unmount(target)
            shutil.rmtree(target)

    async def usage(self, snapshot_id: str) -> int:
        if not self.fs_path(snapshot_id).is_dir():
            raise DataLoss(f"the files of {snapshot_id} are gone", reason="SNAPSHOT_LOST")
        return sum(path.lstat().st_size for path in self.fs_path(snapshot_id).rglob("*"))

    async def remove(self, snapshot_id: str) -> None:
        if self._md.snapshots.delete(snapshot_id):
            shutil.rmtree(self._root / snapshot_id)

    async def sweep(self) -> int:
        known = self._md.snapshots.ids() | {".mounts"}
        garbage = [path for path in self._root.iterdir() if path.name not in known]
        for path in garbage:
            shutil.rmtree(path)
        return len(garbage)
