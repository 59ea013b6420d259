"""Trees of files that others made, and may still change: removal and measuring.

All steps are relative to open directories, never follow a symlink and never enter a mount. A tree may be deeper than
PATH_MAX and than the number of descriptors: the way back up goes through "..", checked against the inode it left.
Blocking; call in a thread. Errors are those of `shoald.host.syscall.failure`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.host import syscall
from shoald.host.syscall import failure

StrPath = str | os.PathLike[str]

_OPEN_LEVELS = 64
_PASSES = 5
_BENEATH = syscall.RESOLVE_BENEATH | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_IMMUTABLE_FL, _FS_APPEND_FL = 0x10, 0x20
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class TreeSize:
    """A tree's size in bytes: `apparent` sums file sizes, `allocated` disk blocks; hard links count once."""

    apparent: int
    allocated: int
    entries: int


@dataclass(slots=True)
class _Level:
    name: str
    identity: tuple[int, int]
    fd: int | None
    directories: list[str]


class _Descent:
    """A walk down from `top`, an open directory that the caller owns; only the deepest levels are held open."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.levels: list[_Level] = []

    def __enter__(self) -> _Descent:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self.levels:
            if level.fd is not None:
                os.close(level.fd)

    @property
    def fd(self) -> int:
        """The deepest directory."""
        if not self.levels:
            return self._top
        fd = self.levels[-1].fd
        assert fd is not None
        return fd

    def enter(self, name: str) -> _Level:
        """Open a directory below the deepest one; OSError when it is none, a mount (EXDEV) or gone."""
        fd = syscall.openat2(self.fd, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_BENEATH)
        found = os.fstat(fd)
        level = _Level(name, (found.st_dev, found.st_ino), fd, [])
        self.levels.append(level)
        if len(self.levels) > _OPEN_LEVELS:
            shallow = self.levels[-_OPEN_LEVELS - 1]
            if shallow.fd is not None:
                os.close(shallow.fd)
                shallow.fd = None
        return level

    def leave(self) -> str:
        """Go one level up; the name of the directory just left. ESTALE when it was moved elsewhere meanwhile."""
        level = self.levels[-1]
        assert level.fd is not None
        if len(self.levels) > 1 and self.levels[-2].fd is None:
            parent = self.levels[-2]
            fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=level.fd)
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != parent.identity:
                os.close(fd)
                raise OSError(errno.ESTALE, "a directory was moved during the walk")
            parent.fd = fd
        self.levels.pop()
        os.close(level.fd)
        return level.name


def remove_tree(path: StrPath) -> bool:
    """Remove a file or a whole tree; False when there is nothing.

    Modes and the immutable flag are overcome, and what others add meanwhile is removed as well (a few times). A mount
    at or below `path` raises FailedPrecondition PATH_BUSY: what is mounted there is never touched.
    """
    target = Path(os.path.abspath(path))
    try:
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise failure("remove", error.errno or 0, path=target) from error
    try:
        for last in (*[False] * (_PASSES - 1), True):
            try:
                return _remove(parent, target.name)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ESTALE) and not last:
                    continue
                if error.errno == errno.EXDEV:
                    message = f"remove {os.fspath(target)!r}: something is mounted below it"
                    raise FailedPrecondition(message, reason="PATH_BUSY") from error
                raise failure("remove", error.errno or 0, path=target) from error
    finally:
        os.close(parent)
    raise AssertionError("the last pass returns or raises")


def _remove(parent: int, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        _unlink(parent, name)
        return True
    with _Descent(parent) as descent:
        _enter_and_empty(descent, name)
        while descent.levels:
            level = descent.levels[-1]
            if level.directories:
                _enter_and_empty(descent, level.directories.pop())
            else:
                left = descent.leave()
                _rmdir(descent.fd, left)
    return True


def _enter_and_empty(descent: _Descent, name: str) -> None:
    try:
        level = descent.enter(name)
    except PermissionError:
        _open_up(descent.fd, name)
        level = descent.enter(name)
    except OSError as error:
        if error.errno not in _VANISHED:
            raise
        # Gone, or swapped for something that is no directory.
        _unlink(descent.fd, name)
        return
    fd = descent.fd
    files: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            (level.directories if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    for file in files:
        _unlink(fd, file)


def _unlink(directory: int, name: str) -> None:
    try:
        try:
            os.unlink(name, dir_fd=directory)
        except PermissionError:
            _open_up(directory, name)
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise OSError(errno.ESTALE, "a file became a directory during the walk") from None


def _rmdir(directory: int, name: str) -> None:
    try:
        try:
            os.rmdir(name, dir_fd=directory)
        except PermissionError:
            _open_up(directory, name)
            os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise OSError(errno.ESTALE, "a directory became a file during the walk") from None


def _open_up(directory: int, name: str) -> None:
    """Take away what may forbid the removal: modes without w and x, and the immutable and append-only flags."""
    with contextlib.suppress(OSError):
        os.fchmod(directory, stat.S_IMODE(os.fstat(directory).st_mode) | 0o700)
    _clear_flags(directory)
    with contextlib.suppress(OSError):
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            mode = os.fstat(entry).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                return
            if stat.S_ISDIR(mode):
                os.chmod(f"/proc/self/fd/{entry}", stat.S_IMODE(mode) | 0o700)
            readable = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _clear_flags(readable)
            finally:
                os.close(readable)
        finally:
            os.close(entry)


def _clear_flags(fd: int) -> None:
    with contextlib.suppress(OSError):
        flags = array.array("L", [0])
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        if flags[0] & (_FS_IMMUTABLE_FL | _FS_APPEND_FL):
            flags[0] &= ~(_FS_IMMUTABLE_FL | _FS_APPEND_FL)
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)


def tree_size(path: StrPath) -> TreeSize:
    """Measure a tree like du(1) -x: mounts are left out, what vanishes meanwhile is ignored. NotFound when missing."""
    try:
        return _measure(Path(os.path.abspath(path)))
    except OSError as error:
        raise failure("measure", error.errno or 0, path=path) from error


def _measure(path: Path) -> TreeSize:
    top = os.lstat(path)
    apparent, allocated, entries = top.st_size, top.st_blocks * 512, 1
    if not stat.S_ISDIR(top.st_mode):
        return TreeSize(apparent, allocated, entries)
    seen: set[int] = set()
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _Descent(root) as descent:
            pending = ["."]
            while pending or descent.levels:
                if not pending:
                    descent.leave()
                    pending = descent.levels[-1].directories if descent.levels else []
                    continue
                try:
                    level = descent.enter(pending.pop())
                except OSError as error:
                    if error.errno in (*_VANISHED, errno.EXDEV):
                        continue
                    raise
                for found in _entries(descent.fd, level.directories):
                    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                        if found.st_ino in seen:
                            continue
                        seen.add(found.st_ino)
                    apparent += found.st_size
                    allocated += found.st_blocks * 512
                    entries += 1
                pending = level.directories
    finally:
        os.close(root)
    return TreeSize(apparent, allocated, entries)


def _entries(fd: int, directories: list[str]) -> list[os.stat_result]:
    """The stat of every entry of a directory; the names of its subdirectories go to `directories`."""
    stats = []
    with os.scandir(fd) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                stats.append(entry.stat(follow_symlinks=False))
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
    return stats
