"""A file or directory of this machine as a tar, for `shoal cp`. Blocking; never in memory as a whole."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator

from shoal.errors import FailedPrecondition

CHUNK = 512 << 10
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_TYPES = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}


class LocalSource:
    """What is at `path`, called `name` in the archive; `follow` a symbolic link at the path itself."""

    def __init__(self, path: str, name: str, *, follow: bool) -> None:
        self._path = path
        self._name = name
        self._follow = follow
        self._links: dict[tuple[int, int], str] = {}
        self.size = 0
        """Bytes of files so far."""

    def chunks(self) -> Iterator[bytes]:
        """The archive in pieces of about CHUNK. Raises FailedPrecondition (UNREADABLE) that names the file."""
        buffer = bytearray()
        for piece in self._members():
            buffer += piece
            if len(buffer) >= CHUNK:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer + bytes(2 * tarfile.BLOCKSIZE))

    def _members(self) -> Iterator[bytes]:
        info = os.stat(self._path) if self._follow else os.lstat(self._path)
        yield from self._member(self._name, self._path, info, follow=self._follow)
        if not stat.S_ISDIR(info.st_mode):
            return
        pending = [(self._name, entry) for entry in reversed(_listed(self._path))]
        while pending:
            parent, entry = pending.pop()
            name = f"{parent}/{entry.name}"
            info = entry.stat(follow_symlinks=False)
            yield from self._member(name, entry.path, info, follow=False)
            if stat.S_ISDIR(info.st_mode):
                pending += [(name, below) for below in reversed(_listed(entry.path))]

    def _member(self, name: str, path: str, info: os.stat_result, *, follow: bool) -> Iterator[bytes]:
        member = tarfile.TarInfo(name)
        member.mode = stat.S_IMODE(info.st_mode) if os.name == "posix" else 0o755
        member.uid, member.gid = info.st_uid, info.st_gid
        member.mtime = info.st_mtime_ns // 10**9
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            member.type = tarfile.DIRTYPE
        elif kind == stat.S_IFLNK:
            member.type = tarfile.SYMTYPE
            member.linkname = os.readlink(path).replace(os.sep, "/")
        elif kind == stat.S_IFREG:
            first = self._links.setdefault((info.st_dev, info.st_ino), name) if info.st_nlink > 1 else name
            if first == name:
                yield from self._content(member, path, follow=follow)
                return
            member.type, member.linkname = tarfile.LNKTYPE, first
        elif kind in _TYPES:
            member.type = _TYPES[kind]
            member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        else:
            return  # a socket
        yield _header(member)

    def _content(self, member: tarfile.TarInfo, path: str, *, follow: bool) -> Iterator[bytes]:
        flags = _NO_FOLLOW & ~getattr(os, "O_NOFOLLOW", 0) if follow else _NO_FOLLOW
        try:
            descriptor = os.open(path, os.O_RDONLY | flags)
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        with open(descriptor, "rb", buffering=0) as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise _unreadable(path, "it is no longer a regular file")
            member.size = left = info.st_size
            yield _header(member)
            while left:
                data = file.read(min(left, CHUNK))
                if not data:
                    raise _unreadable(path, "it became shorter while it was read")
                left -= len(data)
                self.size += len(data)
                yield data
        yield bytes(-member.size % tarfile.BLOCKSIZE)


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _unreadable(path: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"can't read {path}: {why}", reason="UNREADABLE")
