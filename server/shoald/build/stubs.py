"""Removing what the OCI runtime made in a layer only to mount something over it; BuildKit calls them mount stubs.

While a step runs, these places are mounted over: whatever is found there in its own layer, the runtime has put there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

FILES = ("etc/resolv.conf", "etc/hosts", "etc/hostname")
DIRECTORIES = ("dev", "proc", "sys")


def remove_stubs(layer: Path, targets: Iterable[str] = ()) -> None:
    """Remove the stubs of the default mounts and of `targets` (absolute paths in the container) from a layer's own files.
    Only empty files and empty directories go."""
    top = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in FILES:
            _remove(top, path, parents=True)
        for path in (*DIRECTORIES, *(target.strip("/") for target in targets)):
            _remove(top, path, parents=False)
    finally:
        os.close(top)


def _remove(top: int, path: str, *, parents: bool) -> None:
    parts = path.split("/")
    with contextlib.ExitStack() as stack:
        fds = [top]
        for part in parts[:-1]:
            try:
                fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1])
            except OSError:
                return
            stack.callback(os.close, fd)
            fds.append(fd)
        name = parts[-1]
        try:
            found = os.stat(name, dir_fd=fds[-1], follow_symlinks=False)
            if found.st_size == 0 and stat.S_ISREG(found.st_mode):
                os.unlink(name, dir_fd=fds[-1])
            else:
                os.rmdir(name, dir_fd=fds[-1])
        except OSError:
            return
        if not parents:
            return
        # A directory that held nothing but stubs was made for them, unless the layer below has it: then nothing changes.
        for fd, part in zip(reversed(fds[:-1]), reversed(parts[:-1]), strict=True):
            with contextlib.suppress(OSError):
                os.rmdir(part, dir_fd=fd)
