"""Removing what the OCI runtime made in a layer only to mount something over it; BuildKit calls them mount stubs.

While a step runs, these places are mounted over: whatever is found there in its own layer, the runtime has put there.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Iterable
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
        # The deepest first: a target may lie below another one.
        paths = {*FILES, *DIRECTORIES, *("/".join(_parts(target)) for target in targets)}
        for path in sorted(paths - {""}, key=lambda path: -path.count("/")):
            _remove(top, path.split("/"))
    finally:
        os.close(top)


def _parts(target: str) -> list[str]:
    return posixpath.normpath("/" + target).strip("/").split("/")


def _remove(top: int, parts: list[str]) -> None:
    """Remove `parts` and the directories above it that held nothing else."""
    with contextlib.ExitStack() as stack:
        fds = [top]
        for part in parts[:-1]:
            try:
                fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1])
            except OSError:
                return
            stack.callback(os.close, fd)
            fds.append(fd)
        if not _remove_empty(fds[-1], parts[-1]):
            return
        for at in range(len(parts) - 2, -1, -1):
            if _is_own(top, fds[at + 1], "/".join(parts[: at + 1])):
                return
            try:
                os.rmdir(parts[at], dir_fd=fds[at])
            except OSError:
                return


def _remove_empty(directory: int, name: str) -> bool:
    """Remove an empty file or directory; True when nothing is there then."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=directory)
        elif stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


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
