"""Removing what the OCI runtime made in a layer only to mount something over it; BuildKit calls them mount stubs.

While a step runs, these places are mounted over: whatever is found there in its own layer, the runtime has put there.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Container, Iterable
from pathlib import Path

FILES = ("etc/resolv.conf", "etc/hosts", "etc/hostname")
DIRECTORIES = ("dev", "proc", "sys")
_ORIGIN = "trusted.overlay.origin"
"""overlayfs: the directory was copied up, the layers below have it too."""
_USUAL_MODE = 0o755


def remove_stubs(layer: Path, targets: Iterable[str] = ()) -> None:
    """Remove the stubs of the default mounts and of `targets` (absolute paths in the container) from a layer's own
    files. Only empty files and empty directories go."""
    top = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in _stubs(top, targets):
            _remove(top, path)
    finally:
        os.close(top)


def stubs_of(layer: Path, targets: Iterable[str] = ()) -> list[str]:
    """What remove_stubs would remove: paths in the layer, what is in a directory before it."""
    top = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _stubs(top, targets)
    finally:
        os.close(top)


def _stubs(top: int, targets: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    # The deepest first: a target may lie below another one.
    paths = {*FILES, *DIRECTORIES, *("/".join(_parts(target)) for target in targets)}
    for path in sorted(paths - {""}, key=lambda path: -path.count("/")):
        _find(top, path.split("/"), found)
    return list(found)


def _parts(target: str) -> list[str]:
    return posixpath.normpath("/" + target).strip("/").split("/")


def _find(top: int, parts: list[str], found: dict[str, None]) -> None:
    """Add `parts`, and the directories above it that hold nothing else."""
    with contextlib.ExitStack() as stack:
        fds = [top]
        for part in parts[:-1]:
            try:
                fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1])
            except OSError:
                return
            stack.callback(os.close, fd)
            fds.append(fd)
        path = "/".join(parts)
        if not _is_empty(fds[-1], parts[-1], path, found):
            return
        if _exists(fds[-1], parts[-1]):
            found[path] = None
        for at in range(len(parts) - 2, -1, -1):
            path = "/".join(parts[: at + 1])
            if _is_own(top, fds[at + 1], path) or not _holds_nothing(fds[at + 1], path, found):
                return
            found[path] = None


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _is_empty(directory: int, name: str, path: str, found: Container[str]) -> bool:
    """Whether it is an empty file or directory but for what was found, or nothing at all."""
    try:
        state = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(state.st_mode):
            return state.st_size == 0
        if not stat.S_ISDIR(state.st_mode):
            return False
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _holds_nothing(fd, path, found)
    finally:
        os.close(fd)


def _holds_nothing(directory: int, path: str, found: Container[str]) -> bool:
    return all(f"{path}/{name}" in found for name in os.listdir(directory))


def _remove(top: int, path: str) -> None:
    with contextlib.ExitStack() as stack:
        *above, name = path.split("/")
        directory = top
        with contextlib.suppress(OSError):
            for part in above:
                directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                stack.callback(os.close, directory)
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)


def _is_own(top: int, directory: int, path: str) -> bool:
    """Whether the layer may need an empty directory for its own sake: it isn't as the runtime makes one, or a layer
    below has it and a step may have changed its owner. Of /etc nobody changes that, and each step brings it up."""
    root, found = os.fstat(top), os.fstat(directory)
    if stat.S_IMODE(found.st_mode) != _USUAL_MODE or (found.st_uid, found.st_gid) != (root.st_uid, root.st_gid):
        return True
    try:
        os.getxattr(directory, _ORIGIN)
    except OSError:
        return False
    return path != "etc"
