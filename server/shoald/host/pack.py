"""Program: pack the working directory, a layer of overlayfs, as an OCI layer on standard output.

    python -I -m shoald.host.pack --compression gzip|zstd|none [--id-base N] [--mode layer|tree] [--without PATHS]

With `--mode tree` it is no layer but a tree of files: no name and no device means a deletion, and the root comes first.

overlayfs's deletions become whiteouts (image-spec `layer.md`), owners are written as `id - id_base`, sockets are left
out, members come in the order of their names. Of the extended attributes security.capability and user.* are kept.
`--without`: a list (JSON) of empty files and directories to leave out.

Writes one line of JSON to standard error: {"diff_id", "tar_bytes", "content_bytes", "entries", "digest", "size"} (the
last two are of what went to standard output), or {"error": reason, "message"} and exits with 1. Confines itself first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from shoald.host.confine import DAC_OVERRIDE, SYS_ADMIN, confine
from shoald.host.tarmembers import BLOCK, BLOCKDEV, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Member
from shoald.host.tarwriter import END, header

IDS = 65536
_OVERFLOW_ID = 65534
_CHUNK = 1 << 20
_AHEAD = 4
_OPAQUE = "trusted.overlay.opaque"
_CAPABILITY = "security.capability"
_CAPABILITY_V3, _CAPABILITY_V2, _REVISION_MASK = 0x03000000, 0x02000000, 0xFF000000
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENODATA)
_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCKDEV,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}


class Compressor(Protocol):
    """What the compressors of isal and zstd have in common."""

    def compress(self, data: bytes, /) -> bytes:
        """Some output."""

    def flush(self) -> bytes:
        """The rest of it."""


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(name: str) -> Compressor:
    if name == "gzip":
        from isal import isal_zlib

        gzip: Compressor = isal_zlib.compressobj(2, wbits=31)
        return gzip
    if name == "zstd":
        from backports import zstd

        packer: Compressor = zstd.ZstdCompressor(3)
        return packer
    if name == "none":
        return _Plain()
    raise ValueError(f"unknown compression {name!r}")


class _Sink:
    """Hashes, compresses and writes in a thread; `write` is for the walking one."""

    def __init__(self, fd: int, compressor: Compressor) -> None:
        self._fd = fd
        self._compressor = compressor
        self._tar, self._blob = hashlib.sha256(), hashlib.sha256()
        self.tar_bytes = self.size = 0
        self._parts: list[bytes] = []
        self._pending = 0
        self._error: BaseException | None = None
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Append to the archive. Raises what the writing thread met with."""
        self._parts.append(data)
        self._pending += len(data)
        if self._pending >= _CHUNK:
            self._pass_on()

    def finish(self) -> dict[str, object]:
        """Write the rest; what became of it."""
        self._pass_on()
        self._queue.put(None)
        self._thread.join()
        self._raise()
        return {
            "diff_id": f"sha256:{self._tar.hexdigest()}",
            "tar_bytes": self.tar_bytes,
            "digest": f"sha256:{self._blob.hexdigest()}",
            "size": self.size,
        }

    def _pass_on(self) -> None:
        self._raise()
        self._queue.put(b"".join(self._parts))
        self._parts, self._pending = [], 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _consume(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._tar.update(chunk)
                    self.tar_bytes += len(chunk)
                    self._emit(self._compressor.compress(chunk))
                except BaseException as error:  # noqa: BLE001 -- raised by the walking thread
                    self._error = error
        try:
            if self._error is None:
                self._emit(self._compressor.flush())
        except BaseException as error:  # noqa: BLE001 -- raised by the walking thread
            self._error = error

    def _emit(self, data: bytes) -> None:
        self._blob.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class _Packer:
    def __init__(self, sink: _Sink, id_base: int, *, layer: bool = True, without: Iterable[str] = ()) -> None:
        self._sink = sink
        self._base = id_base
        self._layer = layer
        self._without = frozenset(os.fsencode(path) for path in without)
        self._links: dict[tuple[int, int], bytes] = {}
        self.entries = 0
        self.content_bytes = 0

    def walk(self) -> None:
        """All below the root, parents first, names in order."""
        if not self._layer:
            self._entry(b".")
        elif _is_opaque(b"."):
            self._marker(b".wh..wh..opq")
        pending: list[Iterator[bytes]] = [iter(_names(b""))]
        while pending:
            path = next(pending[-1], None)
            if path is None:
                pending.pop()
            elif self._entry(path):
                pending.append(iter(_names(path)))
        self._sink.write(END)

    def _entry(self, path: bytes) -> bool:
        """Write one entry; True for a directory to go into."""
        found = os.lstat(path)
        kind = _TYPES.get(stat.S_IFMT(found.st_mode))
        parent, _, name = path.rpartition(b"/")
        if self._layer and name.startswith(b".wh."):
            raise _Unpackable(f"the name {os.fsdecode(path)[:200]!a} would delete a file in an image layer")
        if self._layer and kind == CHAR and found.st_rdev == 0:
            self._marker((parent + b"/" if parent else b"") + b".wh." + name)
            return False
        if kind is None or (path in self._without and self._is_empty(path, found)):
            return False
        if self._layer and kind == DIRECTORY and "trusted.overlay.redirect" in _xattr_names(path):
            raise _Unpackable(f"{os.fsdecode(path)[:200]!a} is a renamed directory that refers to a lower layer")
        member = Member(
            name=path,
            type=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=self._id(found.st_uid),
            gid=self._id(found.st_gid),
            size=0,
            stored=0,
            mtime_ns=found.st_mtime_ns,
            link=os.readlink(path) if kind == SYMLINK else b"",
            major=os.major(found.st_rdev),
            minor=os.minor(found.st_rdev),
            xattrs=self._xattrs(path, kind),
        )
        self._write(member, found)
        if self._layer and kind == DIRECTORY and _is_opaque(path):
            self._marker(path + b"/.wh..wh..opq")
        return kind == DIRECTORY

    def _is_empty(self, path: bytes, found: os.stat_result) -> bool:
        """Still, but for what is left out too: who wrote there meanwhile loses nothing."""
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size == 0
        return all(name in self._without and self._is_empty(name, os.lstat(name)) for name in _names(path))

    def _write(self, member: Member, found: os.stat_result) -> None:
        self.entries += 1
        if member.type != DIRECTORY and found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), member.name)
            if first is not member.name:
                member.type, member.link, member.xattrs = HARDLINK, first, None
        if member.type != FILE:
            self._sink.write(header(member))
            return
        member.size = found.st_size
        self.content_bytes += member.size
        self._sink.write(header(member))
        fd = os.open(member.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            left = member.size
            while left:
                data = os.read(fd, min(left, _CHUNK))
                if not data:
                    raise _Unpackable(f"{os.fsdecode(member.name)[:200]!a} became shorter while it was read", "CHANGED")
                self._sink.write(data)
                left -= len(data)
        finally:
            os.close(fd)
        if padding := -member.size % BLOCK:
            self._sink.write(bytes(padding))

    def _marker(self, name: bytes) -> None:
        self.entries += 1
        self._sink.write(header(Member(name, FILE, 0, 0, 0, 0, 0, 0)))

    def _id(self, owner: int) -> int:
        if not self._base:
            return owner
        return owner - self._base if self._base <= owner < self._base + IDS else _OVERFLOW_ID

    def _xattrs(self, path: bytes, kind: bytes) -> dict[bytes, bytes] | None:
        kept: dict[bytes, bytes] = {}
        for name in _xattr_names(path):
            if name != _CAPABILITY and not name.startswith("user."):
                continue
            value: bytes | None = os.getxattr(path, name, follow_symlinks=False)
            assert value is not None
            if name == _CAPABILITY:
                value = self._capability(value)
            if value is not None:
                kept[os.fsencode(name)] = value
        return kept or None

    def _capability(self, value: bytes) -> bytes | None:
        """In an image capabilities belong to no namespace: version 3 (with the id of its root) becomes version 2."""
        if len(value) < 4:
            return None
        magic: int = struct.unpack_from("<I", value)[0]
        if magic & _REVISION_MASK != _CAPABILITY_V3:
            return value
        if len(value) != 24 or struct.unpack_from("<I", value, 20)[0] != self._base:
            return None
        return struct.pack("<I", _CAPABILITY_V2 | (magic & ~_REVISION_MASK)) + value[4:20]


class _Unpackable(Exception):
    def __init__(self, message: str, reason: str = "BAD_TREE") -> None:
        super().__init__(message)
        self.reason = reason


def _names(directory: bytes) -> list[bytes]:
    names = sorted(os.listdir(directory or b"."))
    return [directory + b"/" + name for name in names] if directory else names


def _xattr_names(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return []
        raise


def _is_opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return False
        raise


def main() -> int:
    """Run; the exit status."""
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    compressor = _compressor(options["--compression"])
    # OpenSSL reads its configuration at the first use: not in the layer's root.
    hashlib.sha256(b"").hexdigest()
    layer = {"layer": True, "tree": False}[options.get("--mode", "layer")]
    without = json.loads(options.get("--without", "[]"))
    result = _run(lambda: _pack(compressor, int(options.get("--id-base", "0")), layer=layer, without=without))
    os.write(2, json.dumps(result).encode() + b"\n")
    os._exit(1 if "error" in result else 0)


def _pack(compressor: Compressor, id_base: int, *, layer: bool, without: Iterable[str]) -> dict[str, object]:
    confine(keep=frozenset({DAC_OVERRIDE, SYS_ADMIN}))
    sink = _Sink(1, compressor)
    packer = _Packer(sink, id_base, layer=layer, without=without)
    packer.walk()
    return {**sink.finish(), "content_bytes": packer.content_bytes, "entries": packer.entries}


def _run(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    try:
        return work()
    except _Unpackable as error:
        return {"error": error.reason, "message": str(error)}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        name = f" {os.fsdecode(error.filename)[:200]!a}" if isinstance(error.filename, str | bytes) else ""
        reason = "DISK_FULL" if full else "SYSCALL_FAILED"
        return {"error": reason, "message": f"pack{name}: {error.strerror}", "errno": error.errno}


if __name__ == "__main__":
    sys.exit(main())
