"""What an overlay's upper directory changes of the layers below; fd-relative, follows no symbolic link. Blocking.

Directories are opened one at a time, by their path below the top: however deep a container nests them, it costs two
descriptors. What is too deep for a path is told of but not entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoald.host import syscall

_BENEATH = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"


@dataclass(slots=True)
class _Level:
    """A directory that is being walked: what is left of it, the last name first; `replaced`: no layer below shows."""

    path: str
    names: list[str]
    replaced: bool


def changes(upper: Path, below: Path) -> Iterator[tuple[str, str]]:
    """(kind, path), each directory before what is in it, names in order: "added", "modified" or "deleted".

    `below` shows the file system without the upper. What vanishes meanwhile is left out.
    """
    lower = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        top = os.open(upper, _DIRECTORY)
        try:
            yield from _walk(top, lower)
        finally:
            os.close(top)
    finally:
        os.close(lower)


def _walk(top: int, lower: int) -> Iterator[tuple[str, str]]:
    levels = [_Level("", sorted(os.listdir(top), reverse=True), False)]
    while levels:
        level = levels[-1]
        if not level.names:
            levels.pop()
            continue
        child = f"{level.path}/{level.names.pop()}"
        found = _look(top, child)
        was = _look(lower, child)
        if found is None or (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
            if was is not None:
                yield "deleted", child
            continue
        yield ("added" if was is None else "modified"), child
        if stat.S_ISDIR(found.st_mode):
            entered = _enter(top, lower, child, replaced=level.replaced)
            if entered is not None:
                levels.append(entered)


def _enter(top: int, lower: int, path: str, *, replaced: bool) -> _Level | None:
    try:
        fd = syscall.openat2(top, path[1:], _DIRECTORY, resolve=_BENEATH)
    except OSError:
        return None
    try:
        replaced = replaced or _is_opaque(fd)
        names = set(os.listdir(fd))
    finally:
        os.close(fd)
    if replaced:
        names |= _names_below(lower, path)
    return _Level(path, sorted(names, reverse=True), replaced)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def _look(directory: int, path: str) -> os.stat_result | None:
    try:
        fd = syscall.openat2(directory, path[1:], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=_BENEATH)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _names_below(lower: int, path: str) -> set[str]:
    try:
        fd = syscall.openat2(lower, path[1:], _DIRECTORY, resolve=_BENEATH)
    except OSError:
        return set()
    try:
        return set(os.listdir(fd))
    finally:
        os.close(fd)
