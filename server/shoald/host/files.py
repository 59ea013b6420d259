"""Files on disk: durable writes and the space that is left (trees: `shoald.host.trees`). Blocking.

Errors are those of `shoald.host.syscall.failure`: ResourceExhausted DISK_FULL, NotFound PATH_NOT_FOUND and others.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from shoald.host import syscall
from shoald.host.syscall import translated

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """A file system's size and what is free for us, in bytes and in inodes (0 total: it does not count inodes)."""

    total: int
    free: int
    inodes_total: int
    inodes_free: int


def sync_directory(path: StrPath) -> None:
    """fsync a directory: makes creations, renames and removals in it durable."""
    with translated("sync directory", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_file_system(path: StrPath) -> None:
    """Make everything that was written to the file system of `path` durable. Slow: it waits for all writers' pages."""
    with translated("sync file system of", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall.syncfs(fd)
        finally:
            os.close(fd)


def atomic_write(path: StrPath, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file so that a crash leaves the old one or the new one: temp -> fsync -> rename -> fsync(dir).

    The mode is exact (not reduced by the umask). A temporary file is removed on failure.
    """
    target = Path(path)
    temporary = target.parent / f".{target.name[:200]}.{secrets.token_hex(6)}.tmp"
    with translated("write", target):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", closefd=True) as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    sync_directory(target.parent)


def disk_space(path: StrPath) -> DiskSpace:
    """The size and the free space of the file system that holds `path`."""
    with translated("measure file system of", path):
        found = os.statvfs(path)
    unit = found.f_frsize
    return DiskSpace(found.f_blocks * unit, found.f_bavail * unit, found.f_files, found.f_favail)


def disk_free(path: StrPath) -> int:
    """Bytes that we may still write to the file system that holds `path`."""
    return disk_space(path).free
