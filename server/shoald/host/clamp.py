"""Times of files that are set back to a latest one. Blocking; fd-relative, follows no symbolic link.

Directories are opened one at a time, by their path below the top, as a container may nest them very deep.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from shoald.host import syscall
from shoald.host.syscall import translated

_BENEATH = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clamp_times(root: Path, latest_ns: int) -> None:
    """Set the modification time of everything in the tree that is later than `latest_ns` to it.

    Nobody may change the tree meanwhile. Raises as `shoald.host.syscall.failure`: InvalidArgument for what is too deep.
    """
    with translated("set times below", root):
        top = os.open(root, _DIRECTORY)
        try:
            _clamp(top, ".", latest_ns)
            pending = ["."]
            while pending:
                path = pending.pop()
                directory = syscall.openat2(top, path, _DIRECTORY, resolve=_BENEATH)
                try:
                    for name in os.listdir(directory):
                        if _clamp(directory, name, latest_ns):
                            pending.append(f"{path}/{name}")
                finally:
                    os.close(directory)
        finally:
            os.close(top)


def _clamp(directory: int, name: str, latest_ns: int) -> bool:
    """Whether it is a directory."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if found.st_mtime_ns > latest_ns:
        os.utime(name, ns=(latest_ns, latest_ns), dir_fd=directory, follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode)
