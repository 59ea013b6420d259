"""The content store on a local disk.

`<root>/blobs/<algorithm>/<hex>` (0444) exists exactly when the blob is complete and verified;
`<root>/ingest/<algorithm>-<hex>` holds what was written of it so far. Crash order: write, fsync the file, rename, fsync
the directory; whatever the moment of a crash, the blob is whole or absent, and the next ingest goes on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from shoal.digest import HEX_LENGTH, Digest, Hasher
from shoal.errors import DataLoss, Internal, NotFound, ResourceExhausted
from shoald.host.blocking import in_thread
from shoald.host.files import sync_directory
from shoald.host.syscall import translated

CHUNK = 1 << 20
_TRASH = ".trash-"

T = TypeVar("T")


class LocalContent:
    """Implements ContentStore. Safe for many tasks of one event loop; one process a root."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._locks: dict[Digest, _Lock] = {}
        with translated("make content directory"):
            for directory in (root, self._ingest, *(self._blobs / algorithm for algorithm in HEX_LENGTH)):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self._ingest.glob(f"{_TRASH}*"):
                left.unlink()

    def path(self, digest: Digest) -> Path | None:
        """Path of the read-only file, or None."""
        path = self._blob(digest)
        return path if path.is_file() else None

    def size(self, digest: Digest) -> int | None:
        """Bytes, or None."""
        try:
            return self._blob(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest, limit: int = 64 << 20) -> bytes:
        """The whole small blob. Raises NotFound (BLOB_NOT_FOUND), ResourceExhausted (BLOB_TOO_LARGE) past `limit`."""
        with self._open(digest) as fd:
            size = os.fstat(fd).st_size
            if size > limit:
                raise ResourceExhausted(
                    f"blob {digest} has {size} bytes, more than the {limit} allowed here", reason="BLOB_TOO_LARGE"
                )
            with translated("read blob"), open(fd, "rb", closefd=False) as file:
                return file.read()

    async def put(self, body: bytes, digest: Digest | None = None) -> Digest:
        """Store a small blob; verifies `digest` when given. Idempotent. Raises as `ingest` does."""
        actual = Digest.of(body, digest.algorithm if digest is not None else "sha256")
        if digest is not None and actual != digest:
            raise _mismatch(digest, actual)
        if self.path(actual) is None:
            async with self.ingest(actual, len(body)) as ingest:
                if ingest.offset < len(body):
                    ingest.write(body[ingest.offset :])
                await ingest.commit()
        return actual

    @contextlib.asynccontextmanager
    async def ingest(self, digest: Digest, size: int) -> AsyncIterator[LocalIngest]:
        """Write the blob `digest` of `size` bytes, going on where an earlier try ended.

        One writer a digest at a time: others wait, and find the blob complete (`offset == size`; commit() gives its
        path) when the first one did it. Raises ResourceExhausted (DISK_FULL).
        """
        async with self._exclusive(digest):
            ingest = LocalIngest(digest, size, self._partial(digest), self._blob(digest))
            try:
                await ingest.open()
                yield ingest
            finally:
                ingest.close()

    async def stream(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob in chunks of 1 MiB. Raises NotFound (BLOB_NOT_FOUND)."""
        with self._open(digest) as fd:
            while chunk := await in_thread(functools.partial(os.pread, fd, CHUNK, offset)):
                offset += len(chunk)
                yield chunk

    async def delete(self, digest: Digest, *, unless: Callable[[], bool] | None = None) -> bool:
        """Delete blob and partial; see ContentStore."""
        async with self._exclusive(digest):
            if unless is not None and unless():
                return False
            gone = []
            for path in (self._blob(digest), self._partial(digest)):
                # A rename is short; freeing a large file takes a while, hence the thread.
                trash = self._ingest / f"{_TRASH}{path.name}"
                with translated("delete blob"), contextlib.suppress(FileNotFoundError):
                    path.rename(trash)
                    gone.append(trash)
            for trash in gone:
                await _in_thread("delete blob", functools.partial(trash.unlink, missing_ok=True))
            return bool(gone)

    def digests(self) -> list[Digest]:
        """All blobs there are."""
        return [digest for algorithm in HEX_LENGTH for digest in _named(self._blobs / algorithm, algorithm)]

    def partials(self) -> list[Digest]:
        """Digests of which a part is left for a resume, and nobody writes now."""
        found = (d for algorithm in HEX_LENGTH for d in _named(self._ingest, algorithm, f"{algorithm}-"))
        return [digest for digest in found if digest not in self._locks]

    def _blob(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.hex

    def _partial(self, digest: Digest) -> Path:
        return self._ingest / f"{digest.algorithm}-{digest.hex}"

    @contextlib.contextmanager
    def _open(self, digest: Digest) -> Iterator[int]:
        try:
            with translated("open blob"):
                fd = os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except NotFound:
            raise NotFound(
                f"no such blob: {digest}", reason="BLOB_NOT_FOUND", metadata={"digest": str(digest)}
            ) from None
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def _exclusive(self, digest: Digest) -> AsyncIterator[None]:
        lock = self._locks.setdefault(digest, _Lock())
        lock.users += 1
        try:
            async with lock:
                yield
        finally:
            lock.users -= 1
            if lock.users == 0:
                del self._locks[digest]


class LocalIngest:
    """Implements Ingest. Made by LocalContent.ingest()."""

    def __init__(self, digest: Digest, size: int, partial: Path, blob: Path) -> None:
        self._digest = digest
        self._size = size
        self._partial = partial
        self._blob = blob
        self._fd = -1
        self._hasher: Hasher = digest.new_hasher()
        self._offset = 0
        self._complete = False

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._offset

    async def open(self) -> None:
        """Open the partial file and hash what it holds; one that is longer than the blob starts anew."""
        try:
            held = self._blob.stat().st_size
        except FileNotFoundError:
            held = -1
        if held >= 0:
            if held != self._size:
                raise DataLoss(
                    f"blob {self._digest} has {held} bytes, not {self._size}",
                    reason="SIZE_MISMATCH",
                )
            self._complete, self._offset = True, held
            return
        with translated("open ingest"):
            self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._offset = await _in_thread("resume blob", self._resume)

    def _resume(self) -> int:
        if os.fstat(self._fd).st_size > self._size:
            os.ftruncate(self._fd, 0)
        offset = 0
        while chunk := os.pread(self._fd, CHUNK, offset):
            self._hasher.update(chunk)
            offset += len(chunk)
        return offset

    def write(self, chunk: bytes) -> None:
        """Append and hash. Raises DataLoss (SIZE_MISMATCH) past the expected size; ResourceExhausted (DISK_FULL), and
        then what was written is gone, so that the disk recovers."""
        if self._fd < 0:
            raise Internal(f"write to a finished ingest of {self._digest}", reason="INGEST_CLOSED")
        if self._offset + len(chunk) > self._size:
            self._drop()
            raise DataLoss(
                f"blob {self._digest} is longer than the {self._size} bytes that its descriptor gives",
                reason="SIZE_MISMATCH",
            )
        try:
            with translated("write blob", self._partial):
                view = memoryview(chunk)
                while view:
                    # Positioned writes: after a failed one the next try goes to the same place.
                    written = os.pwrite(self._fd, view, self._offset)
                    self._hasher.update(view[:written])
                    self._offset += written
                    view = view[written:]
        except ResourceExhausted:
            self._drop()
            raise

    async def append(self, chunk: bytes) -> None:
        """`write` in a thread: a disk that is behind with its writes does not hold up the event loop."""
        await in_thread(functools.partial(self.write, chunk))

    async def commit(self) -> Path:
        """Verify size and digest, fsync, rename, fsync the directory. Raises DataLoss (SIZE_MISMATCH for too few bytes,
        which stay for a resume; DIGEST_MISMATCH, which discards), ResourceExhausted (DISK_FULL, which discards)."""
        if self._complete:
            return self._blob
        if self._fd < 0:
            raise Internal(f"commit of a finished ingest of {self._digest}", reason="INGEST_CLOSED")
        if self._offset != self._size:
            raise DataLoss(
                f"blob {self._digest} ended after {self._offset} of {self._size} bytes", reason="SIZE_MISMATCH"
            )
        actual = Digest.from_hasher(self._hasher, self._digest.algorithm)
        if actual != self._digest:
            self._drop()
            raise _mismatch(self._digest, actual)
        try:
            await _in_thread("commit blob", self._publish)
        except ResourceExhausted:
            self._drop()
            raise
        self._complete = True
        self.close()
        return self._blob

    def _publish(self) -> None:
        os.fchmod(self._fd, 0o444)
        os.fsync(self._fd)
        os.rename(self._partial, self._blob)
        sync_directory(self._blob.parent)

    async def discard(self) -> None:
        """Delete what was written; nothing to do for a blob that was complete before."""
        if not self._complete:
            self._drop()

    def _drop(self) -> None:
        self.close()
        with translated("discard ingest"):
            self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the descriptor back; what was written stays, an empty file does not. Idempotent."""
        if self._fd >= 0:
            if self._offset == 0 and not self._complete:
                with contextlib.suppress(OSError):
                    self._partial.unlink()
            os.close(self._fd)
            self._fd = -1


class _Lock(asyncio.Lock):
    """A lock that goes when nobody uses it any more."""

    users = 0


async def _in_thread(what: str, work: Callable[[], T]) -> T:
    with translated(what):
        return await in_thread(work)


def _named(directory: Path, algorithm: str, prefix: str = "") -> list[Digest]:
    """The digests that regular files in `directory` are named by; other entries are none of ours."""
    pattern = re.compile(f"{prefix}([0-9a-f]{{{HEX_LENGTH[algorithm]}}})")
    with translated("list content", directory), os.scandir(directory) as entries:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return [Digest(algorithm, match[1]) for name in files if (match := pattern.fullmatch(name))]


def _mismatch(expected: Digest, actual: Digest) -> DataLoss:
    return DataLoss(
        f"content does not match its digest: expected {expected}, got {actual}",
        reason="DIGEST_MISMATCH",
        hint="the registry or the link damaged it; try again, and tell the registry's owner if it stays",
        metadata={"expected": str(expected), "actual": str(actual)},
    )
