"""Files that tell the daemon what to run as root: only what nobody but root could have written is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from shoal.errors import FailedPrecondition

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def read_trusted(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes that belongs to root (or whom the daemon runs as), with all directories on the
    way to it; links are followed.

    Raises FailedPrecondition (UNTRUSTED_FILE, UNREADABLE_FILE).
    """
    try:
        real = path.resolve(strict=True)
        _check(path.parent, os.stat(path.parent))
        _check(real.parent, os.stat(real.parent))
        for above in real.parent.parents:
            _check(above, os.stat(above), sticky=True)
        # Nobody else can change what the path leads to any more. Not blocking: it may be a FIFO.
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise FailedPrecondition(f"{path} is not a file", reason="UNREADABLE_FILE")
            _check(path, found)
            data = file.read(limit + 1)
    except (OSError, RuntimeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or "its links go round in a circle"
        raise FailedPrecondition(f"{path}: {why}", reason="UNREADABLE_FILE") from error
    if len(data) > limit:
        raise FailedPrecondition(f"{path} is larger than {limit} bytes", reason="UNREADABLE_FILE")
    return data


def _check(path: Path, found: os.stat_result, *, sticky: bool = False) -> None:
    """`sticky`: of a directory like /tmp, in which nobody can replace what is another's."""
    if found.st_uid not in (0, os.geteuid()):
        raise FailedPrecondition(f"{path} belongs to user {found.st_uid}, not to root", reason="UNTRUSTED_FILE")
    if found.st_mode & _BY_OTHERS and not (sticky and found.st_mode & stat.S_ISVTX):
        raise FailedPrecondition(
            f"{path} can be written by others than root (mode {stat.S_IMODE(found.st_mode):o})", reason="UNTRUSTED_FILE"
        )
