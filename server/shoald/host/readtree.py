"""A tree that others may change meanwhile, as a tar.

Each file is opened once, relative to its open directory, and what is written is what that descriptor holds. No link is
followed, no device is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from shoald.host.tarmembers import BLOCK, BLOCKDEV, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Member
from shoald.host.tarsource import Refused
from shoald.host.tarwriter import END, header

_CHUNK = 1 << 20
_MAX_DEPTH = 900
_ZEROS = bytes(64 << 10)
_CAPABILITY = "security.capability"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TYPES = {stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCKDEV, stat.S_IFIFO: FIFO}
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM, errno.EACCES)


@dataclass(slots=True)
class _Open:
    fd: int
    name: bytes
    pending: list[bytes] = field(default_factory=list)


class TreeReader:
    """Writes tars to a descriptor. What disappears while it is read is left out; a file that shrinks is filled up with
    zeros, as its header has been written."""

    def __init__(self, into: int) -> None:
        self._into = into
        self._parts: list[bytes] = []
        self._waiting = 0
        self._links: dict[tuple[int, int], bytes] = {}

    def write(self, path: bytes, name: bytes) -> None:
        """The archive of what is at `path`, whose first member has this name. Raises OSError, Refused (TOO_DEEP)."""
        parent, _, last = path.rpartition(b"/")
        if last in (b"", b".", b".."):
            self._tree(_Open(os.open(path, _DIRECTORY_FLAGS), name), own=True)
        else:
            directory = os.open(parent or b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                opened = self._entry(directory, last, name, first=True)
            finally:
                os.close(directory)
            if opened is not None:
                self._tree(opened)
        self._finish()

    def write_children(self, path: bytes) -> None:
        """The archive of what is in a directory, without the directory itself."""
        self._tree(_Open(os.open(path, _DIRECTORY_FLAGS), b""))
        self._finish()

    def _tree(self, top: _Open, *, own: bool = False) -> None:
        if own:
            self._emit(header(self._member(top.name, os.fstat(top.fd), DIRECTORY, fd=top.fd)))
        top.pending = _names(top.fd)
        stack = [top]
        try:
            while stack:
                here = stack[-1]
                if not here.pending:
                    os.close(stack.pop().fd)
                    continue
                name = here.pending.pop()
                full = here.name + b"/" + name if here.name else name
                opened = self._entry(here.fd, name, full)
                if opened is not None:
                    if len(stack) >= _MAX_DEPTH:
                        os.close(opened.fd)
                        raise Refused(f"more than {_MAX_DEPTH} directories deep", "TOO_DEEP")
                    opened.pending = _names(opened.fd)
                    stack.append(opened)
        finally:
            for each in stack:
                os.close(each.fd)

    def _entry(self, directory: int, name: bytes, full: bytes, *, first: bool = False) -> _Open | None:
        """Write one entry; the open directory to go into."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = stat.S_IFMT(found.st_mode)
            if kind == stat.S_IFDIR:
                fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
                self._emit(header(self._member(full, os.fstat(fd), DIRECTORY, fd=fd)))
                return _Open(fd, full)
            if kind == stat.S_IFREG:
                self._file(directory, name, full)
            elif kind in _TYPES:
                link = os.readlink(name, dir_fd=directory) if kind == stat.S_IFLNK else b""
                self._emit(header(self._member(full, found, _TYPES[kind], link=link)))
        except OSError as error:
            if first or error.errno not in _GONE:
                error.filename = full
                raise
        return None

    def _file(self, directory: int, name: bytes, full: bytes) -> None:
        fd = os.open(name, _FILE_FLAGS, dir_fd=directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return  # replaced at this moment
            member = self._member(full, found, FILE, fd=fd)
            if found.st_nlink > 1:
                earlier = self._links.setdefault((found.st_dev, found.st_ino), full)
                if earlier is not full:
                    member.type, member.link, member.xattrs = HARDLINK, earlier, None
                    self._emit(header(member))
                    return
            member.size = found.st_size
            self._emit(header(member))
            self._content(fd, member.size)
        finally:
            os.close(fd)

    def _content(self, fd: int, size: int) -> None:
        left = size
        while left and (data := os.read(fd, min(left, _CHUNK))):
            self._emit(data)
            left -= len(data)
        left += -size % BLOCK
        while left:
            self._emit(_ZEROS[:left])
            left -= min(left, len(_ZEROS))

    def _member(
        self, name: bytes, found: os.stat_result, kind: bytes, *, fd: int | None = None, link: bytes = b""
    ) -> Member:
        return Member(
            name=name,
            type=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            size=0,
            stored=0,
            mtime_ns=found.st_mtime_ns,
            link=link,
            major=os.major(found.st_rdev),
            minor=os.minor(found.st_rdev),
            xattrs=_xattrs(fd) if fd is not None else None,
        )

    def _emit(self, data: bytes) -> None:
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._parts))
        self._parts, self._waiting = [], 0
        while view:
            view = view[os.write(self._into, view) :]

    def _finish(self) -> None:
        self._emit(END)
        self._flush()


def _names(directory: int) -> list[bytes]:
    """Names in a directory, last first."""
    return sorted(map(os.fsencode, os.listdir(directory)), reverse=True)


def _xattrs(fd: int) -> dict[bytes, bytes] | None:
    """The file's capabilities and user attributes."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return None
        raise
    kept: dict[bytes, bytes] = {}
    for name in names:
        if name != _CAPABILITY and not name.startswith("user."):
            continue
        try:
            kept[os.fsencode(name)] = os.getxattr(fd, name)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
    return kept or None
