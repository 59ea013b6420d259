"""Program: copy files from below one open directory to below another.
`python -m shoald.host.treecopy SOURCE_FD TARGET_FD < request > answer`

Request (JSON): {"items": [Item...], "owner": [uid, gid] or null, "parent_owner": [uid, gid], "keep_times": bool}.
Answer: {"error": text or null, "errno": number or 0, "path": text, "links": [[index, parent, name]...]}. All paths are
resolved inside their root; a symbolic link in a target's parents leads where it would in a container that has the
target as its root, and never out of it (openat2 RESOLVE_IN_ROOT). A separate program for the same reason as treescan.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import stat
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from shoald.host.filecopy import copy_content, write_all
from shoald.host.treescan import open_inside, raise_file_limit

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
MAX_PARENTS = 256
"""Directories that are kept open."""
MAX_LINKS = 40


class Item(NamedTuple):
    """One file to make at `target`. `content` as in treescan; `data` (hex) replaces the source of a file; with
    `keep_existing` a directory that exists keeps its mode and owner."""

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
    link: bool = False
    """A new file is not made: the answer tells where it goes, so that it can be linked there in the layer itself."""


class Refused(Exception):
    """What can't be copied, for people."""


class Copier:
    """Copies items in order; directories come before what is in them."""

    def __init__(
        self, source: int, target: int, items: Sequence[Item], owner: list[int] | None, parent_owner: list[int]
    ) -> None:
        self._items = items
        self.keeps_times = False
        """Directories that are there keep their times."""
        self._source, self._target = source, target
        self._owner, self._parent_owner = owner, parent_owner
        self._parents: OrderedDict[str, int] = OrderedDict()
        self._links: dict[int, str] = {}
        self._times: list[tuple[str, int]] = []
        self._top = os.readlink(f"/proc/self/fd/{target}")
        self._copied_up: dict[int, str] = {}
        self._seen: set[str] = set()
        self.links: dict[tuple[str, str], int] = {}

    def close(self) -> None:
        """Close the directories."""
        while self._parents:
            os.close(self._parents.popitem()[1])

    def copy(self, item: Item, number: int = 0) -> None:
        """Make one file, or find the place of one that is to be linked."""
        parent = self._parent(posixpath.dirname(item.target))
        name = posixpath.basename(item.target)
        if self.links and (waiting := self.links.pop((self._place(parent), name), None)) is not None:
            # Another item for the same place: now the first one has to be there.
            self._file(parent, name, self._items[waiting])
            self._attributes(parent, name, self._items[waiting])
        if item.kind == "d":
            self._directory(parent, name, item)
            return
        existed = self._make_room(parent, name, item)
        if item.link and not existed:
            self.links[self._place(parent), name] = number
            return
        if item.inode and item.inode in self._links:
            self._link(self._links[item.inode], parent, name)
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
            self._links[item.inode] = item.target

    def finish(self) -> None:
        """Set the times of directories, which copying into them has changed."""
        for path, mtime in reversed(self._times):
            parent = self._parent(posixpath.dirname(path))
            with contextlib.suppress(FileNotFoundError):
                os.utime(posixpath.basename(path) or ".", ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    # --- directories ------------------------------------------------------------------------------------------------

    def _parent(self, path: str) -> int:
        """The directory `path`, made with its parents when missing. Valid until the next call."""
        fd = self._parents.get(path)
        if fd is not None:
            self._parents.move_to_end(path)
            return fd
        try:
            fd = open_inside(self._target, path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            fd = self._made(path)
        except NotADirectoryError:
            raise Refused(f"cannot copy to non-directory: {path}") from None
        self._parents[path] = fd
        if self.keeps_times and path not in self._seen:
            self._seen.add(path)
            self._times.append((path, os.fstat(fd).st_mtime_ns))
        if len(self._parents) > MAX_PARENTS:
            _, old = self._parents.popitem(last=False)
            self._copied_up.pop(old, None)
            os.close(old)
        return fd

    def _made(self, path: str) -> int:
        """Walk to `path` inside the target and make what is missing, also where a symbolic link leads to nothing
        yet."""
        pending = path.strip("/").split("/")[::-1]
        at: list[str] = []  # where the walk is, without symbolic links
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = at[:-1]
                continue
            above = open_inside(self._target, "/".join(at), os.O_RDONLY | os.O_DIRECTORY)
            try:
                link = self._step(above, part, path)
            finally:
                os.close(above)
            if link is None:
                at = [*at, part]
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            pending += link.split("/")[::-1]
            at = [] if link.startswith("/") else at
        return open_inside(self._target, "/".join(at), os.O_RDONLY | os.O_DIRECTORY)

    def _step(self, above: int, name: str, path: str) -> str | None:
        """Make sure that `name` is a directory; the target when it is a symbolic link."""
        try:
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=above)
            os.chown(name, *self._parent_owner, dir_fd=above, follow_symlinks=False)
            os.chmod(name, 0o755, dir_fd=above)
            return None
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(name, dir_fd=above)
        if not stat.S_ISDIR(found.st_mode):
            raise Refused(f"cannot copy to non-directory: {path}")
        return None

    def _directory(self, parent: int, name: str, item: Item) -> None:
        if name == "":
            return  # the root itself
        created = False
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent)
            created = True
        else:
            if stat.S_ISLNK(found.st_mode):
                self._parent(item.target)  # must lead to a directory inside
                return
            if not stat.S_ISDIR(found.st_mode):
                raise Refused(f"cannot copy to non-directory: {item.target}")
        if created or not item.keep_existing:
            self._attributes(parent, name, item)
            self._times.append((item.target, item.mtime_ns))

    # --- files ------------------------------------------------------------------------------------------------------

    def _place(self, parent: int) -> str:
        """The path of an open directory inside the target; from then on the layer that is made has it too."""
        if parent not in self._copied_up:
            os.fchmod(parent, stat.S_IMODE(os.fstat(parent).st_mode))
            self._copied_up[parent] = os.readlink(f"/proc/self/fd/{parent}").removeprefix(self._top)
        return self._copied_up[parent]

    def _make_room(self, parent: int, name: str, item: Item) -> bool:
        """Remove the file that is there; whether there was one."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"cannot replace the directory {item.target} with a file")
        os.unlink(name, dir_fd=parent)
        return True

    def _link(self, first: str, parent: int, name: str) -> None:
        # A descriptor of its own: asking for the other directory may close `parent`.
        other = open_inside(self._target, posixpath.dirname(first), os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(posixpath.basename(first), name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(other)

    def _file(self, parent: int, name: str, item: Item) -> None:
        out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        try:
            if item.data is not None:
                write_all(out, bytes.fromhex(item.data))
                return
            source = open_inside(self._source, item.source, _READ)
            try:
                copy_content(source, out)
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
                try:
                    os.setxattr(path, key, bytes.fromhex(value), follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.EOPNOTSUPP:  # as BuildKit: what the file system can't hold is left out
                        raise
        if item.kind != "d":
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=parent, follow_symlinks=False)


def run(source: int, target: int, request: dict[str, Any]) -> dict[str, Any]:
    """Copy all; the answer."""
    items = [Item(*fields) for fields in request["items"]]
    copier = Copier(source, target, items, request["owner"], request["parent_owner"])
    copier.keeps_times = request.get("keep_times", False)
    item = None
    try:
        for number, item in enumerate(items):
            copier.copy(item, number)
        copier.finish()
    except Refused as error:
        return {"error": str(error), "errno": 0, "path": item.target if item else ""}
    except OSError as error:
        return {
            "error": error.strerror or str(error),
            "errno": error.errno or errno.EIO,
            "path": item.target if item else "",
        }
    finally:
        copier.close()
    return {
        "error": None,
        "errno": 0,
        "path": "",
        "links": [[number, *place] for place, number in copier.links.items()],
    }


def main() -> int:
    """Entry point."""
    os.umask(0)
    raise_file_limit()
    answer = run(int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin))
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
