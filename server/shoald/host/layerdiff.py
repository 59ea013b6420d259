"""What an overlay's upper directory changes of the layers below; fd-relative, follows no symbolic link. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shoald.host import syscall

_BENEATH = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS
_OPAQUE = "trusted.overlay.opaque"


def changes(upper: Path, below: Path) -> Iterator[tuple[str, str]]:
    """(kind, path) sorted by path: "added", "modified" or "deleted". `below` shows the file system without the upper."""
    lower = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        yield from _walk(top, "", lower, replaced=False)
    finally:
        os.close(lower)


def _walk(directory: int, path: str, lower: int, *, replaced: bool) -> Iterator[tuple[str, str]]:
    """Takes over the descriptor `directory`. `replaced`: nothing of the layers below shows here."""
    try:
        names = sorted(os.listdir(directory))
        if replaced and path:
            hidden = set(_names_below(lower, path)) - set(names)
            names = sorted({*names, *hidden})
        else:
            hidden = set()
        for name in names:
            child = f"{path}/{name}"
            if name in hidden:
                yield "deleted", child
                continue
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                yield "deleted", child
                continue
            was = _mode_below(lower, child)
            yield ("added" if was is None else "modified"), child
            if stat.S_ISDIR(found.st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                yield from _walk(fd, child, lower, replaced=_is_opaque(fd))
    finally:
        os.close(directory)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def _mode_below(lower: int, path: str) -> int | None:
    try:
        fd = syscall.openat2(lower, path[1:], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=_BENEATH)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)


def _names_below(lower: int, path: str) -> list[str]:
    try:
        fd = syscall.openat2(lower, path[1:], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=_BENEATH)
    except OSError:
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
