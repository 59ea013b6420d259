"""Program: list and hash a tree below an open directory. `python -m shoald.host.treescan ROOT_FD < request > answer`

Request (JSON): {"paths": [...], "hash": bool}. Answer: {"roots": {path: clean path or null}, "entries": [[...], ...]}
with an entry as in `Entry`. A path is resolved inside the root (a symbolic link never leads out of it, openat2
RESOLVE_IN_ROOT); below it nothing is followed. A separate program: hashing many small files would hold the daemon's
interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from typing import NamedTuple

from shoald.host import syscall

CHUNK = 1 << 20
TRIES = 32
"""openat2 gives up (EAGAIN) when a `..` on the way meets a rename anywhere on the machine."""
XATTRS = ("security.capability", "user.")


class Entry(NamedTuple):
    """A file of the tree. `path` is clean and absolute inside the root; `kind` one of f d l c b p; times in ns."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    content: str
    """f: sha256 hex (or ""), l: target, c and b: "major:minor", else ""."""
    xattrs: dict[str, str]
    """Values in hex."""
    inode: int
    """Not 0 when the file has several links: equal numbers are one file."""


def open_inside(root: int, path: str, flags: int) -> int:
    """Open `path` as if `root` were the root of the file system. Raises OSError."""
    for _ in range(TRIES):
        with contextlib.suppress(BlockingIOError):
            return syscall.openat2(root, path.lstrip("/") or ".", flags | os.O_CLOEXEC, resolve=syscall.RESOLVE_IN_ROOT)
    raise OSError(errno.EAGAIN, "directories on the way are renamed all the time", path)


def scan(root: int, paths: list[str], *, want_hash: bool) -> dict[str, object]:
    """Entries of all `paths` with what is below them, sorted by path, each once."""
    roots: dict[str, str | None] = {}
    entries: dict[str, Entry] = {}
    for path in paths:
        try:
            fd = open_inside(root, path, os.O_PATH)
        except OSError:
            roots[path] = None
            continue
        try:
            found = _inside_path(root, fd)
            roots[path] = found
            if found in entries:
                continue
            _add(entries, fd, found, want_hash)
        finally:
            os.close(fd)
    return {"roots": roots, "entries": [entries[p] for p in sorted(entries)]}


def _inside_path(root: int, fd: int) -> str:
    """The path of an open file below the root; both are named by the kernel."""
    top = os.readlink(f"/proc/self/fd/{root}")
    path = os.readlink(f"/proc/self/fd/{fd}")
    if path == top:
        return "/"
    return "/" + path.removeprefix(top).lstrip("/")


def _add(entries: dict[str, Entry], fd: int, path: str, want_hash: bool) -> None:
    """One file or directory (an O_PATH descriptor), then what is below it.

    The depth first, without recursion: as many descriptors are open as the tree is deep, not as it is wide.
    """
    found = os.fstat(fd)
    if stat.S_ISSOCK(found.st_mode):
        return
    entries[path] = _entry(fd, path, found, want_hash)
    if not stat.S_ISDIR(found.st_mode):
        return
    stack = [_listed(fd, path)]
    try:
        while stack:
            directory, where, names = stack[-1]
            name = next(names, None)
            if name is None:
                os.close(stack.pop()[0])
                continue
            child = where.rstrip("/") + "/" + name
            if child in entries:
                continue
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.fstat(opened)
                if stat.S_ISSOCK(status.st_mode):
                    continue
                entries[child] = _entry(opened, child, status, want_hash)
                if stat.S_ISDIR(status.st_mode):
                    stack.append(_listed(opened, child))
            finally:
                os.close(opened)
    finally:
        for directory, _, _ in stack:
            os.close(directory)


def _listed(directory: int, path: str) -> tuple[int, str, Iterator[str]]:
    """A directory that is open for its place only (O_PATH), open for reading, with its names."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return fd, path, iter(sorted(os.listdir(fd)))
    except BaseException:
        os.close(fd)
        raise


def _entry(fd: int, path: str, found: os.stat_result, want_hash: bool) -> Entry:
    kind, content = "f", ""
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        kind = "d"
    elif stat.S_ISLNK(mode):
        kind, content = "l", os.readlink("", dir_fd=fd)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind = "c" if stat.S_ISCHR(mode) else "b"
        content = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    elif stat.S_ISFIFO(mode):
        kind = "p"
    elif want_hash:
        content = _hash(fd)
    return Entry(
        path,
        kind,
        stat.S_IMODE(mode),
        found.st_uid,
        found.st_gid,
        found.st_size if kind == "f" else 0,
        found.st_mtime_ns,
        content,
        _xattrs(fd) if kind in "fd" else {},
        found.st_ino if kind != "d" and found.st_nlink > 1 else 0,
    )


def _hash(fd: int) -> str:
    digest = hashlib.sha256()
    opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        while chunk := os.read(opened, CHUNK):
            digest.update(chunk)
    finally:
        os.close(opened)
    return digest.hexdigest()


def _xattrs(fd: int) -> dict[str, str]:
    path = f"/proc/self/fd/{fd}"
    try:
        names = os.listxattr(path)
    except OSError:
        return {}
    return {name: os.getxattr(path, name).hex() for name in names if name.startswith(XATTRS)}


def raise_file_limit() -> None:
    """A tree may be deeper than the usual 1,024 open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Entry point."""
    raise_file_limit()
    request = json.load(sys.stdin)
    answer = scan(int(sys.argv[1]), request["paths"], want_hash=request["hash"])
    # Names need not be UTF-8: surrogates survive as escapes.
    sys.stdout.write(json.dumps(answer, separators=(",", ":")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
