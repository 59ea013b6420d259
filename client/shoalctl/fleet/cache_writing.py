"""A cache of builds in a directory of this machine, as it is written: whoever begins to read it finds it whole.

What comes in lies in `.shoal-ingest` until all is there; then blobs get their names, and index.json the new tag. A
client that is killed leaves the earlier cache, and the next one takes up what had come. Blobs that only the cache
before had go with it; nothing else in the directory is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shoal.errors import DataLoss, FailedPrecondition, ShoalError
from shoalctl.fleet.cache_layout import REF_NAME, CacheLayout, Part, bad, check_directory, hex_of

_INGEST = ".shoal-ingest"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_CHUNK = 1 << 20
_TRY_S = 0.2  # between two attempts to be the only one who writes
_CREATE = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)


class CacheWriter:
    """Writes into a layout, which is made where there is none. Blocking, but for `alone`."""

    def __init__(self, path: str | Path) -> None:
        self.layout = CacheLayout(path)
        self._root = self.layout.path
        self._ingest = self._root / _INGEST
        self._blobs = self._root / "blobs" / "sha256"
        self._came: set[str] = set()

    def prepare(self) -> None:
        """Make the directory, and find out whether it can be written. Raises FailedPrecondition (LOCAL_WRITE_FAILED),
        InvalidArgument (BAD_CACHE)."""
        with _translated(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            for directory in (self._blobs.parent, self._blobs):
                check_directory(directory)
                directory.mkdir(exist_ok=True)
            for directory in (self._root, self._blobs):
                with tempfile.TemporaryFile(dir=directory):
                    pass
        self._entries()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else writes into the directory inside the block. Raises FailedPrecondition (LOCAL_WRITE_FAILED)."""
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        with _translated(self._root):
            fd = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while True:
                with contextlib.suppress(BlockingIOError), _translated(self._root):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await asyncio.sleep(_TRY_S)
            yield
        finally:
            os.close(fd)

    def holds(self, part: Part) -> bool:
        """Whether a blob is here, whole: it is read."""
        try:
            with self.layout.open(part.digest) as file:
                return os.fstat(file.fileno()).st_size == part.size and _hashed(file) == part.digest
        except ShoalError:
            return False

    def incoming(self, part: Part) -> Incoming:
        """A blob that comes in; what an earlier client had of it counts. Raises FailedPrecondition
        (LOCAL_WRITE_FAILED), InvalidArgument (BAD_CACHE)."""
        path = self._ingest / hex_of(part.digest)
        check_directory(self._ingest)
        with _translated(path):
            self._ingest.mkdir(exist_ok=True)
            fd = os.open(path, _CREATE, 0o644)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise bad(f"{path} is no file")
        self._came.add(path.name)
        return Incoming(open(fd, "r+b", buffering=0), part)

    def publish(self, manifest: Part, tag: str, parts: list[Part]) -> None:
        """Give the manifest the tag: all its parts are here, or have come in. What only the one before had goes.

        Raises FailedPrecondition (LOCAL_WRITE_FAILED), InvalidArgument (BAD_CACHE)."""
        with _translated(self._root):
            check_directory(self._ingest)
            self._ingest.mkdir(exist_ok=True)
            for part in parts:
                name = hex_of(part.digest)
                if name in self._came:
                    os.replace(self._ingest / name, self._blobs / name)
            _synced(self._blobs)
            if not (self._root / "oci-layout").exists():
                self._replace("oci-layout", _LAYOUT)
            entries = self._entries()
            old = [each for each in entries if _named(each, tag)]
            kept = [each for each in entries if not _named(each, tag)]
            own = {
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.size,
                "annotations": {REF_NAME: tag},
            }
            index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [*kept, own]}
            self._replace("index.json", json.dumps(index, separators=(",", ":")).encode())
            self._sweep(old, [*kept, own])

    def _entries(self) -> list[dict[str, Any]]:
        if not os.path.lexists(self._root / "index.json"):
            return []
        try:
            return self.layout.entries()
        except ShoalError as error:
            error.metadata.setdefault("hint", f"delete {self._root / 'index.json'} to begin anew")
            raise

    def _replace(self, name: str, body: bytes) -> None:
        temporary = self._ingest / name
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._root / name)
        _synced(self._root)

    def _sweep(self, old: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
        """Delete what only the old manifests name, and what has come in for nothing."""
        with contextlib.suppress(OSError):
            for path in self._ingest.iterdir():
                path.unlink()
            self._ingest.rmdir()
        try:
            before = self.layout.reached(str(each.get("digest")) for each in old)
            needed = self.layout.reached(str(each.get("digest")) for each in kept)
        except ShoalError:
            return  # of what can't be read nobody knows what it needs
        for digest in before - needed:
            self.layout.place(digest).unlink(missing_ok=True)


class Incoming:
    """A blob on its way into the directory."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._part = part
        self._hash = hashlib.sha256()
        self.offset = 0
        """Bytes that are here."""
        with _translated(part.digest):
            while chunk := file.read(_CHUNK):
                self._hash.update(chunk)
                self.offset += len(chunk)
        if self.offset > part.size:
            self.restart()

    def write(self, chunk: bytes) -> None:
        """Append. Raises DataLoss (SIZE_MISMATCH), FailedPrecondition (LOCAL_WRITE_FAILED)."""
        if self.offset + len(chunk) > self._part.size:
            raise DataLoss(f"the host sent more than the {self._part.size} bytes of a blob", reason="SIZE_MISMATCH")
        view = memoryview(chunk)
        with _translated(self._part.digest):
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self.offset += len(chunk)

    def complete(self) -> bool:
        """On the disk, and what its digest says; else it begins anew. Raises DataLoss (SIZE_MISMATCH),
        FailedPrecondition (LOCAL_WRITE_FAILED)."""
        if self.offset != self._part.size:
            raise DataLoss(f"the host sent {self.offset} of {self._part.size} bytes", reason="SIZE_MISMATCH")
        if f"sha256:{self._hash.hexdigest()}" != self._part.digest:
            self.restart()
            return False
        with _translated(self._part.digest):
            os.fsync(self._file.fileno())
        return True

    def restart(self) -> None:
        """Forget what is here. Raises FailedPrecondition (LOCAL_WRITE_FAILED)."""
        with _translated(self._part.digest):
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self.offset = 0

    def body(self) -> bytes:
        """All of it. Raises FailedPrecondition (LOCAL_WRITE_FAILED)."""
        with _translated(self._part.digest):
            self._file.seek(0)
            return self._file.read()

    def close(self) -> None:
        """What came stays."""
        self._file.close()


def _named(entry: dict[str, Any], tag: str) -> bool:
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and annotations.get(REF_NAME) == tag


def _hashed(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    return f"sha256:{found.hexdigest()}"


def _synced(directory: Path) -> None:
    if os.name == "posix":
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _translated(path: Path | str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise FailedPrecondition(
            f"can't write {error.filename or path}: {error.strerror or error}", reason="LOCAL_WRITE_FAILED"
        ) from error
