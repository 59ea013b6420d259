"""Program: give files of layers a second name in another layer.
`python -m shoald.host.treelink LAYER_FD FD... < request > answer`

The first descriptor is the directory of the layer that is made. Of the others, as many as the request says are of the
layers that the files are in, the topmost first: what overlayfs would show is found in the first that has it. The rest
are of the layers below the one that is made: no file may have a second name there, as programs would take the two for
one.

Request (JSON): {"sources": count, "items": [Link...]}. Answer: {"failed": [index...]}: those that can't be had this
way, because the file is not exactly what it has to be, or the file system refuses. They are to be copied instead.
Nothing is followed, and no file is written to.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections import OrderedDict
from typing import NamedTuple

from shoald.host import syscall
from shoald.host.treescan import raise_file_limit

_BENEATH = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV
_MAX_OPEN = 256
_OWN = ("trusted.overlay.", "user.overlay.")
_MAX_LINKS = 60_000
"""ext4 has 65,000 names for a file."""


class Link(NamedTuple):
    """`source` is where the file is in the layers, `parent` and `name` where its new name goes; the rest is what the
    file has to be."""

    source: str
    parent: str
    name: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class Linker:
    """Links files one by one; directories keep their times."""

    def __init__(self, target: int, layers: list[int], below: list[int]) -> None:
        self._target = target
        self._layers = layers
        self._below = below
        own = {_identity(fd) for fd in below}
        self._both = {layer for layer in layers if _identity(layer) in own}
        self._inodes: set[int] | None = None
        self._told = False
        self._open: OrderedDict[tuple[int, str], int | None] = OrderedDict()
        self._parents: OrderedDict[tuple[int, str], int | None] = OrderedDict()
        self._times: dict[str, tuple[int, int]] = {}
        self._seen: set[int] = set()

    def link(self, item: Link) -> bool:
        """Whether it was done."""
        parent = self._parent(item.parent)
        if parent is None:
            return False
        where, _, name = item.source.rpartition("/")
        for layer in self._layers:
            above = self._directory(layer, where)
            if above is None:
                if self._hidden(layer, where):
                    return False
                continue
            try:
                found = os.stat(name, dir_fd=above, follow_symlinks=False)
            except FileNotFoundError:
                if _opaque(above):
                    return False
                continue
            if layer in self._both or (found.st_nlink > 1 and not self._is_new(found.st_ino)):
                return False
            return self._is(item, found, above, name) and self._linked(item, found, above, name, parent)
        return False

    def finish(self) -> None:
        """Give directories back the times that they had."""
        for path, times in self._times.items():
            fd = self._parent(path)
            if fd is not None:
                os.utime(fd, ns=times)

    def _is_new(self, inode: int) -> bool:
        """Whether no file of the layers below has this inode; False where that can't be told (nested too deep)."""
        if self._inodes is None:
            self._inodes, self._told = set(), True
            pending = [f"/proc/self/fd/{fd}" for fd in self._below]
            while pending and self._told:
                try:
                    with os.scandir(pending.pop()) as entries:
                        for entry in entries:
                            if entry.is_dir(follow_symlinks=False):
                                pending.append(entry.path)
                            else:
                                self._inodes.add(entry.inode())
                except OSError:
                    self._told = False
        return self._told and inode not in self._inodes

    def _is(self, item: Link, found: os.stat_result, above: int, name: str) -> bool:
        """Whether a file is exactly what is wanted, and has no name in the layer yet: that would be a hard link."""
        told = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns)
        if not stat.S_ISREG(found.st_mode) or told != item[3:] or found.st_ino in self._seen:
            return False
        if found.st_nlink > _MAX_LINKS:
            return False
        try:
            attributes = os.listxattr(f"/proc/self/fd/{above}/{name}", follow_symlinks=False)
        except OSError:
            return False
        return not any(attribute.startswith(_OWN) for attribute in attributes)

    def _linked(self, item: Link, found: os.stat_result, above: int, name: str, parent: int) -> bool:
        if item.parent not in self._times:
            status = os.fstat(parent)
            self._times[item.parent] = (status.st_atime_ns, status.st_mtime_ns)
        try:
            os.link(name, item.name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        self._seen.add(found.st_ino)
        return True

    def _parent(self, path: str) -> int | None:
        """A directory of the layer that is made. Kept apart from the others: while a file is looked for, many of those
        are opened, and closed."""
        return self._cached(self._parents, self._target, path)

    def _directory(self, root: int, path: str) -> int | None:
        """A directory of another layer, or None. Valid until the next one is asked for."""
        return self._cached(self._open, root, path)

    @staticmethod
    def _cached(opened: OrderedDict[tuple[int, str], int | None], root: int, path: str) -> int | None:
        key = (root, path)
        if key in opened:
            opened.move_to_end(key)
            return opened[key]
        try:
            fd: int | None = syscall.openat2(
                root, path.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=_BENEATH
            )
        except OSError:
            fd = None
        opened[key] = fd
        if len(opened) > _MAX_OPEN:
            _, old = opened.popitem(last=False)
            if old is not None:
                os.close(old)
        return fd

    def _hidden(self, layer: int, path: str) -> bool:
        """Whether a layer without the directory hides that of the layers below, by an opaque directory or a file on the
        way."""
        parts = [part for part in path.split("/") if part]
        for end in range(len(parts)):
            above = self._directory(layer, "/".join(parts[:end]))
            if above is None:
                return True
            try:
                found = os.stat(parts[end], dir_fd=above, follow_symlinks=False)
            except FileNotFoundError:
                return _opaque(above)
            if not stat.S_ISDIR(found.st_mode):
                return True
        return True


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def main() -> int:
    """Entry point."""
    raise_file_limit()
    request = json.load(sys.stdin)
    target, *others = map(int, sys.argv[1:])
    linker = Linker(target, others[: request["sources"]], others[request["sources"] :])
    links = [Link(*fields) for fields in request["items"]]
    failed = [at for at, link in enumerate(links) if not linker.link(link)]
    linker.finish()
    sys.stdout.write(json.dumps({"failed": failed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
