"""Clients' files on the host: `<root>/blobs/<hex>` and immutable trees `<root>/trees/<hex>/data`.

Order on disk: temporary name -> rename -> row. A blob's bytes are hashed again whenever a tree is made of it, and no
blob outlives a boot, so that they need no sync of their own; a tree is on the disk before it has a name. What has no
row is garbage, which `recover` removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted, ShoalError
from shoald.files.tree import checked_tree
from shoald.host.blocking import in_thread, to_end
from shoald.host.boot import is_same_boot, note_boot
from shoald.host.files import sync_directory, sync_file_system
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree
from shoald.metadata import Metadata
from shoald.model.file import TreeEntry

log = structlog.get_logger(__name__)

KEPT_S = 3600.0
"""How long blobs and trees that no container uses are kept."""
MAX_BLOB_BYTES = 1 << 40
MAX_TREE_BYTES = 4 << 30
_CHUNK = 1 << 20
_AT_ONCE = 2000
_TMP = ".tmp-"
_FEW = 32
"""So many files are synced one by one; more, with their whole file system."""
_NAMED = 10


class ContentTrees:
    """Blobs, and trees made of them. Only mounts lead to the trees: the root is 0700."""

    def __init__(self, md: Metadata, root: Path) -> None:
        self._md = md
        self._root = root
        self._blobs = root / "blobs"
        self._trees = root / "trees"
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        with translated("make directory", root):
            for directory in (root, self._blobs, self._trees):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- blobs ------------------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here; the others are kept for KEPT_S from now on. Raises InvalidArgument."""
        wanted = list(dict.fromkeys(str(Digest.parse(digest)) for digest in digests))
        held = self._md.files.blobs.touch(wanted)
        gone = [digest for digest, size in held.items() if not self._is_here(digest, size)]
        for digest in gone:
            self._md.files.blobs.delete(digest)
            del held[digest]
        return [digest for digest in wanted if digest not in held]

    async def lacking(self, digests: Sequence[str]) -> list[str]:
        """As `missing`, of any number."""
        found: list[str] = []
        for start in range(0, len(digests), _AT_ONCE):
            found += self.missing(digests[start : start + _AT_ONCE])
            await asyncio.sleep(0)  # others' turn
        return found

    def _is_here(self, digest: str, size: int) -> bool:
        """A context may have taken the file, which is moved into it."""
        try:
            return os.stat(self._blobs / Digest.parse(digest).hex).st_size == size
        except FileNotFoundError:
            return False

    async def put(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob of exactly `size` bytes. Raises DataLoss (DIGEST_MISMATCH), ResourceExhausted (FILE_TOO_LARGE,
        DISK_FULL), InvalidArgument."""
        name = Digest.parse(digest)
        if not 0 <= size <= MAX_BLOB_BYTES:
            raise ResourceExhausted(
                f"a file of {size} bytes is more than {MAX_BLOB_BYTES}",
                reason="FILE_TOO_LARGE",
                hint="use a volume and `shoal volume import` for large data",
            )
        temporary = self._blobs / f"{_TMP}{secrets.token_hex(8)}"
        try:
            with translated("store file"):
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    await _write(fd, name, size, chunks)
                finally:
                    os.close(fd)
                temporary.rename(self._blobs / name.hex)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._md.files.blobs.put(str(name), size)

    async def put_all(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Store several small blobs at once. Raises as `put`."""
        names = [Digest.parse(digest) for digest, _ in blobs]
        done: list[tuple[str, int]] = []
        try:
            await to_end(in_thread(functools.partial(self._put_all, names, [data for _, data in blobs], done)))
        finally:
            self._md.files.blobs.put_all(done)

    def _put_all(self, names: Sequence[Digest], contents: Sequence[bytes], done: list[tuple[str, int]]) -> None:
        """Blocking. Those that are there are added to `done`."""
        for name, data in zip(names, contents, strict=True):
            if hashlib.sha256(data).hexdigest() != name.hex:
                raise _damaged(name)
            temporary = self._blobs / f"{_TMP}{secrets.token_hex(8)}"
            try:
                with translated("store file"):
                    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        _write_all(fd, data)
                    finally:
                        os.close(fd)
                    temporary.rename(self._blobs / name.hex)
                done.append((str(name), len(data)))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def blob(self, digest: str) -> Path | None:
        """The file of a blob, if it is here. Whoever moves it away says so (`consumed`)."""
        path = self._blobs / Digest.parse(digest).hex
        return path if path.exists() else None

    def read(self, digest: str, limit: int) -> bytes:
        """A blob's bytes, which must not be more than `limit` (blocking). Raises ResourceExhausted (FILE_TOO_LARGE),
        DataLoss (DIGEST_MISMATCH), as what was stored may have been damaged."""
        name = Digest.parse(digest)
        with translated("read file"), (self._blobs / name.hex).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ResourceExhausted(f"{name.short} has more than {limit} bytes", reason="FILE_TOO_LARGE")
        if hashlib.sha256(data).hexdigest() != name.hex:
            raise _damaged(name)
        return data

    async def consumed(self, digests: Sequence[str]) -> None:
        """These blobs went elsewhere; those that have come again meanwhile stay."""
        for start in range(0, len(digests), _AT_ONCE):
            part = digests[start : start + _AT_ONCE]
            gone = [digest for digest in part if self.blob(digest) is None]
            with self._md.transaction():
                for digest in gone:
                    self._md.files.blobs.delete(digest)
            await asyncio.sleep(0)  # others' turn: there may be a million

    def forget(self, digest: str) -> None:
        """This blob is of no more use."""
        self._md.files.blobs.delete(digest)
        (self._blobs / Digest.parse(digest).hex).unlink(missing_ok=True)

    # --- trees ------------------------------------------------------------------------------------------------------

    async def assemble(self, entries: Sequence[TreeEntry]) -> str:
        """Make the tree, if it is not here, and return its digest. It is kept for KEPT_S from now on.

        Raises InvalidArgument (INVALID_TREE), FailedPrecondition (BLOB_MISSING), ResourceExhausted (TREE_TOO_LARGE,
        DISK_FULL).
        """
        digest = checked_tree(entries)
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if self._md.files.trees.touch([digest]):
                return digest
            size = self._size(entries)
            await to_end(self._make(digest, entries))
            self._md.files.trees.put(digest, size)
        return digest

    def _size(self, entries: Sequence[TreeEntry]) -> int:
        wanted = [entry.blob for entry in entries if entry.blob]
        self._refuse_missing(self.missing(wanted))
        size = sum(self._md.files.blobs.size(blob) or 0 for blob in wanted)
        if size > MAX_TREE_BYTES:
            raise ResourceExhausted(
                f"the files are {size} bytes, more than {MAX_TREE_BYTES}",
                reason="TREE_TOO_LARGE",
                hint="use a volume and `shoal volume import` for large data",
            )
        return size

    async def _make(self, digest: str, entries: Sequence[TreeEntry]) -> None:
        staging = self._trees / f"{_TMP}{secrets.token_hex(8)}"
        try:
            broken = await in_thread(functools.partial(self._build, staging, entries))
            if broken:
                for blob in broken:
                    self._md.files.blobs.delete(blob)
                self._refuse_missing(broken)
            with translated("store files"):
                target = self._trees / Digest.parse(digest).hex
                if target.exists():  # without a row: of a daemon that died right here
                    await in_thread(functools.partial(remove_tree, target))
                staging.rename(target)
            await in_thread(functools.partial(sync_directory, self._trees))
        except BaseException:
            if staging.exists():
                await in_thread(functools.partial(remove_tree, staging))
            raise

    def _build(self, staging: Path, entries: Sequence[TreeEntry]) -> list[str]:
        """Blocking. Digests of blobs that are gone or damaged."""
        broken: list[str] = []
        with translated("store files"):
            staging.mkdir(mode=0o700)
            root = staging / "data"
            if not entries[0].blob or entries[0].path:
                root.mkdir(mode=0o755)
            few = sum(1 for entry in entries if entry.blob) <= _FEW
            for entry in entries:
                at = root / entry.path if entry.path else root
                if entry.directory:
                    at.mkdir(mode=0o700, exist_ok=not entry.path)
                elif entry.link:
                    at.symlink_to(entry.link)
                    os.utime(at, ns=(entry.modified_ns, entry.modified_ns), follow_symlinks=False)
                elif not self._copy(entry, at, sync=few):
                    broken.append(entry.blob)
            for entry in reversed(entries):
                if entry.directory:
                    at = root / entry.path if entry.path else root
                    if few:
                        sync_directory(at)
                    at.chmod(entry.mode)
                    os.utime(at, ns=(entry.modified_ns, entry.modified_ns))
            if few:
                sync_directory(staging)
        if not few:
            sync_file_system(staging)
        return broken

    def _copy(self, entry: TreeEntry, at: Path, *, sync: bool) -> bool:
        blob = Digest.parse(entry.blob)
        try:
            source = os.open(self._blobs / blob.hex, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        with open(source, "rb", buffering=0) as reading:
            target = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(target, "wb", buffering=0) as writing:
                hashed = hashlib.sha256()
                while chunk := reading.read(_CHUNK):
                    hashed.update(chunk)
                    _write_all(writing.fileno(), chunk)
                if hashed.hexdigest() != blob.hex:
                    log.error("file_damaged", digest=entry.blob)
                    return False
                os.fchmod(writing.fileno(), entry.mode)
                os.utime(writing.fileno(), ns=(entry.modified_ns, entry.modified_ns))
                if sync:
                    os.fsync(writing.fileno())
        return True

    def path(self, digest: str) -> Path:
        """The tree: a directory or one file. It is kept for KEPT_S from now on. Raises FailedPrecondition
        (TREE_MISSING)."""
        if not self._md.files.trees.touch([digest]):
            raise FailedPrecondition(
                f"this host does not have the files {digest[:80]}",
                reason="TREE_MISSING",
                hint="send them again: they are kept for an hour, and while a container uses them",
                metadata={"digest": digest[:80]},
            )
        return self._trees / Digest.parse(digest).hex / "data"

    @staticmethod
    def _refuse_missing(digests: Sequence[str]) -> None:
        if digests:
            raise FailedPrecondition(
                f"this host lacks {len(digests)} files of the tree",
                reason="BLOB_MISSING",
                hint="send them with Put first",
                metadata={"digests": ",".join(digests[:_NAMED]), "count": str(len(digests))},
            )

    # --- garbage ----------------------------------------------------------------------------------------------------

    async def collect(self, kept_s: float = KEPT_S) -> int:
        """Remove what no container uses and was of no use for `kept_s`; how many blobs and trees."""
        # No await between the questions, the rows and the renames: nobody takes up what is going.
        trees = set(self._md.files.trees.unused_since(kept_s)) - self._md.files.mounted()
        trash = []
        for digest in sorted(trees):
            self._md.files.trees.delete(digest)
            name = self._trees / f"{_TMP}{secrets.token_hex(8)}"
            with translated("remove files"), contextlib.suppress(FileNotFoundError):
                (self._trees / Digest.parse(digest).hex).rename(name)
                trash.append(name)
        blobs = self._md.files.blobs.unused_since(kept_s)
        for digest in blobs:
            self._md.files.blobs.delete(digest)
            with translated("remove file"):
                (self._blobs / Digest.parse(digest).hex).unlink(missing_ok=True)
        for path in trash:
            await in_thread(functools.partial(remove_tree, path))
        return len(trees) + len(blobs)

    async def recover(self) -> None:
        """Bring rows and disk into agreement, for start-up: what a killed daemon had begun goes, and blobs of an
        earlier boot."""
        if not is_same_boot(self._root / ".boot"):
            for entry in list(self._blobs.iterdir()):
                entry.unlink()
            note_boot(self._root / ".boot")
        trees = {Digest.parse(digest).hex for digest in self._md.files.trees.all()}
        blobs = {Digest.parse(digest).hex for digest in self._md.files.blobs.all()}
        for entry in list(self._trees.iterdir()):
            if entry.name not in trees:
                await in_thread(functools.partial(remove_tree, entry))
        for entry in list(self._blobs.iterdir()):
            if entry.name not in blobs:
                entry.unlink()
        for name in trees - {entry.name for entry in self._trees.iterdir()}:
            self._md.files.trees.delete(f"sha256:{name}")
        for name in blobs - {entry.name for entry in self._blobs.iterdir()}:
            self._md.files.blobs.delete(f"sha256:{name}")

    async def collect_forever(self, every_s: float = KEPT_S / 6) -> None:
        """Collect from time to time, until cancelled."""
        while True:
            try:
                await self.collect()
            except ShoalError as error:
                log.error("files_not_collected", error=str(error))
            await asyncio.sleep(every_s)


async def _write(fd: int, name: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
    hashed = hashlib.sha256()
    got = 0
    async for chunk in chunks:
        got += len(chunk)
        if got > size:
            raise InvalidArgument(
                f"file {name.short} is longer than the {size} bytes it was said to be", reason="INVALID_SIZE"
            )
        hashed.update(chunk)
        _write_all(fd, chunk)
    if got != size or hashed.hexdigest() != name.hex:
        raise _damaged(name)


def _damaged(name: Digest) -> DataLoss:
    return DataLoss(
        f"what came as file {name.short} is something else",
        reason="DIGEST_MISMATCH",
        hint="was it changed while it was sent? try again",
        metadata={"digest": str(name)},
    )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
