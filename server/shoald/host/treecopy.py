"""Program: copy files from below one open directory to below another.
`python -m shoald.host.treecopy SOURCE_FD TARGET_FD < request > answer`

Request (JSON): {"items": [Item...], "owner": [uid, gid] or null, "parent_owner": [uid, gid]}. Answer: {"error": text or null}.
All paths are resolved inside their root; a symbolic link in a target's parents leads where it would in a container that
has the target as its root, and never out of it (openat2 RESOLVE_IN_ROOT). A separate program for the same reason as treescan.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import posixpath
import stat
import sys
from typing import Any, NamedTuple

from shoald.host.treescan import open_inside

_FICLONE = 0x40049409
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class Item(NamedTuple):
    """One file to make at `target`. `content` as in treescan; `data` (hex) replaces the source of a file; with `keep_existing`
    a directory that exists keeps its mode and owner."""

    source: str
    target: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str
    xattrs: dict[str, str]
    inode: int
    data: str | None
    keep_existing: bool


class Refused(Exception):
    """What can't be copied, for people."""


class Copier:
    """Copies items in order; directories come before what is in them."""

    def __init__(self, source: int, target: int, owner: list[int] | None, parent_owner: list[int]) -> None:
        self._source, self._target = source, target
        self._owner, self._parent_owner = owner, parent_owner
        self._parents: dict[str, int] = {}
        self._links: dict[int, tuple[int, str]] = {}
        self._times: list[tuple[int, str, int]] = []

    def copy(self, item: Item) -> None:
        """Make one file."""
        parent = self._parent(posixpath.dirname(item.target))
        name = posixpath.basename(item.target)
        if item.kind == "d":
            self._directory(parent, name, item)
            return
        self._make_room(parent, name, item)
        if item.inode and item.inode in self._links:
            other, other_name = self._links[item.inode]
            os.link(other_name, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            return
        if item.kind == "f":
            self._file(parent, name, item)
        elif item.kind == "l":
            os.symlink(item.content, name, dir_fd=parent)
        elif item.kind == "p":
            os.mkfifo(name, item.mode, dir_fd=parent)
        else:
            major, minor = map(int, item.content.split(":"))
            kind = stat.S_IFCHR if item.kind == "c" else stat.S_IFBLK
            os.mknod(name, kind | item.mode, os.makedev(major, minor), dir_fd=parent)
        self._attributes(parent, name, item)
        if item.inode:
            self._links[item.inode] = (parent, name)

    def finish(self) -> None:
        """Set the times of directories, which copying into them has changed."""
        for parent, name, mtime in reversed(self._times):
            with contextlib.suppress(FileNotFoundError):
                os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _parent(self, path: str) -> int:
        """The directory `path`, made with its parents when missing."""
        known = self._parents.get(path)
        if known is not None:
            return known
        try:
            fd = open_inside(self._target, path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            above = self._parent(posixpath.dirname(path))
            name = posixpath.basename(path)
            try:
                os.mkdir(name, 0o755, dir_fd=above)
            except FileExistsError:
                raise Refused(f"{path} is a symbolic link that leads nowhere") from None
            os.chown(name, *self._parent_owner, dir_fd=above, follow_symlinks=False)
            os.chmod(name, 0o755, dir_fd=above)
            fd = open_inside(self._target, path, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            raise Refused(f"cannot copy to non-directory: {path}") from None
        self._parents[path] = fd
        return fd

    def _directory(self, parent: int, name: str, item: Item) -> None:
        if name == "":
            return  # the root itself
        created = False
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                self._parent(item.target)  # must lead to a directory inside
                return
            if not stat.S_ISDIR(found.st_mode):
                raise Refused(f"cannot copy to non-directory: {item.target}")
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent)
            created = True
        if created or not item.keep_existing:
            self._attributes(parent, name, item)
            self._times.append((parent, name, item.mtime_ns))

    def _make_room(self, parent: int, name: str, item: Item) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"cannot overwrite the directory {item.target} with a file")
        os.unlink(name, dir_fd=parent)

    def _file(self, parent: int, name: str, item: Item) -> None:
        out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        try:
            if item.data is not None:
                _write_all(out, bytes.fromhex(item.data))
                return
            source = open_inside(self._source, item.source, _READ)
            try:
                copy_bytes(source, out)
            finally:
                os.close(source)
        finally:
            os.close(out)

    def _attributes(self, parent: int, name: str, item: Item) -> None:
        uid, gid = self._owner or (item.uid, item.gid)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if item.kind != "l":
            os.chmod(name, item.mode, dir_fd=parent)  # after chown, which clears setuid
            path = f"/proc/self/fd/{parent}/{name}"
            for key, value in item.xattrs.items():
                os.setxattr(path, key, bytes.fromhex(value), follow_symlinks=False)
        if item.kind != "d":
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=parent, follow_symlinks=False)


def copy_bytes(source: int, out: int) -> None:
    """The content: shared extents where the file system can, else inside the kernel, else by hand."""
    try:
        fcntl.ioctl(out, _FICLONE, source)
        return
    except OSError:
        pass
    try:
        while os.copy_file_range(source, out, 1 << 30):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    while chunk := os.read(source, 1 << 20):
        _write_all(out, chunk)


def _write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def run(source: int, target: int, request: dict[str, Any]) -> str | None:
    """Copy all; the error for people, or None."""
    copier = Copier(source, target, request["owner"], request["parent_owner"])
    item = None
    try:
        for fields in request["items"]:
            item = Item(*fields)
            copier.copy(item)
        copier.finish()
    except Refused as error:
        return str(error)
    except OSError as error:
        where = item.target if item else ""
        return f"{where}: {error.strerror}" + (" (disk full)" if error.errno == errno.ENOSPC else "")
    return None


def main() -> int:
    """Entry point."""
    os.umask(0)
    error = run(int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin))
    sys.stdout.write(json.dumps({"error": error}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
