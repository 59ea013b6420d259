"""Directories that a layer needs but does not describe look like those of the layers below. Blocking.

A layer with `usr/bin/tool` alone says nothing of `usr`; as a directory of its own it would hide owner and mode of the
`usr` below. The same for the root. All steps are relative to open directories and follow no symlink.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoald.host import syscall
from shoald.host.syscall import translated

_RESOLVE = (
    syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV | syscall.RESOLVE_NO_MAGICLINKS
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OPAQUE = "trusted.overlay.opaque"
_HIDING = (errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class Below:
    """The files of a layer further down, and what its owners on disk are shifted by."""

    path: Path
    id_base: int = 0


def inherit_directories(layer: Path, below: Sequence[Below], names: Iterable[str]) -> None:
    """Give the directories `names` of a layer (relative paths, "" is its root) mode, owner and time of those that they
    cover. `below` has the topmost first. Raises as `failure` does."""
    with translated("inherit directories of", layer), contextlib.ExitStack() as stack:
        top = stack.enter_context(_opened(layer))
        lowers = [(stack.enter_context(_opened(each.path)), each.id_base) for each in below]
        for name in names:
            found = _find(lowers, name)
            if found is None:
                continue
            fd = syscall.openat2(top, name or ".", _DIRECTORY, resolve=_RESOLVE)
            try:
                os.fchown(fd, found.st_uid, found.st_gid)
                os.fchmod(fd, stat.S_IMODE(found.st_mode))
                os.utime(fd, ns=(found.st_mtime_ns, found.st_mtime_ns))
            finally:
                os.close(fd)


def hide_all(layer: Path, below: Sequence[Below]) -> None:
    """Let a layer's root hide everything below it. overlayfs merges roots whatever they say, so each name gets its own
    whiteout, or is opaque where the layer has a directory."""
    with translated("hide what is below", layer), contextlib.ExitStack() as stack:
        top = stack.enter_context(_opened(layer))
        names: set[str] = set()
        for each in below:
            names.update(os.listdir(stack.enter_context(_opened(each.path))))
        for name in names:
            try:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=top)
            except FileExistsError:
                with contextlib.suppress(OSError):
                    fd = syscall.openat2(top, name, _DIRECTORY, resolve=_RESOLVE)
                    try:
                        os.setxattr(fd, _OPAQUE, b"y")
                    finally:
                        os.close(fd)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Found:
    st_mode: int
    st_uid: int
    st_gid: int
    st_mtime_ns: int


def _find(lowers: Sequence[tuple[int, int]], name: str) -> _Found | None:
    """The topmost directory of this name that is not hidden by something above it."""
    parts = name.split("/") if name else []
    for lower, base in lowers:
        hidden = False
        fd = os.dup(lower)
        try:
            for part in parts:
                try:
                    step = syscall.openat2(fd, part, _DIRECTORY, resolve=_RESOLVE)
                except OSError as error:
                    if error.errno in _HIDING:
                        return None
                    if error.errno != errno.ENOENT:
                        raise
                    break
                os.close(fd)
                fd = step
                hidden = hidden or _is_opaque(fd)
            else:
                found = os.fstat(fd)
                return _Found(
                    found.st_mode, max(0, found.st_uid - base), max(0, found.st_gid - base), found.st_mtime_ns
                )
        finally:
            os.close(fd)
        if hidden:
            return None
    return None


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:
        return False
