"""Files of an image, read from outside: never a way out of its root, never a device or a pipe, never more than allowed.

Nothing is trusted: a symbolic link is followed inside the root only (openat2 RESOLVE_IN_ROOT), what is no regular file
is not opened, and sizes, numbers and depths have limits. Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from shoald.host.treescan import open_inside

MAX_FILES = 100_000
"""Files that are opened."""
MAX_BYTES = 512 << 20
"""Bytes that are read."""
MAX_ENTRIES = 2_000_000
"""Names that are seen in directories."""
MAX_DEPTH = 128

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_KERNEL = frozenset({"proc", "sys", "dev"})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unreadable(Exception):
    """A file that is there and is not read; the message says why."""


class UsedUp(Unreadable):
    """What may be read of one image has been."""


class Directory(NamedTuple):
    """A directory below the root: its path ("" is the root itself), and the names of directories and others in it."""

    path: str
    directories: list[str]
    others: list[str]


class ImageFiles:
    """The files below `root`, a directory that nobody changes meanwhile. A context manager. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._files, self._bytes, self._entries = MAX_FILES, MAX_BYTES, MAX_ENTRIES

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._root)

    def read(self, path: str, most: int) -> bytes | None:
        """The content of a file, or None when there is no such file. Raises Unreadable for one that is no regular file
        or has more than `most` bytes, and for what the kernel refuses."""
        with self.opened(path) as file:
            return file.whole(most) if file is not None else None

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[OpenFile | None]:
        """A file to read parts of, for the time of the context. Raises as `read`."""
        fd = self._open(path)
        try:
            yield OpenFile(self, fd) if fd is not None else None
        finally:
            if fd is not None:
                os.close(fd)

    def _open(self, path: str) -> int | None:
        place = self._place(path)
        if place is None:
            return None
        try:
            # Not before it is known to be a file: to open a device may already do something.
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise Unreadable("it is no regular file")
            if self._files <= 0:
                raise UsedUp(f"more than {MAX_FILES} files")
            self._files -= 1
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(os.strerror(error.errno or 0)) from error
        finally:
            os.close(place)

    def _place(self, path: str, flags: int = 0) -> int | None:
        if "\0" in path:
            return None
        try:
            return open_inside(self._root, path, os.O_PATH | flags)
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise Unreadable(os.strerror(error.errno or 0)) from error

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none when there is no such directory. Raises Unreadable."""
        place = self._place(path, os.O_DIRECTORY)
        if place is None:
            return []
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=place)
            try:
                return [name for name, _ in self._listed(fd)]
            finally:
                os.close(fd)
        except OSError as error:
            raise Unreadable(os.strerror(error.errno or 0)) from error
        finally:
            os.close(place)

    def _listed(self, fd: int) -> list[tuple[str, bool]]:
        """Names, and whether each is a directory, sorted."""
        found = []
        with os.scandir(fd) as entries:
            for entry in entries:
                self._entries -= 1
                if self._entries < 0:
                    raise UsedUp(f"more than {MAX_ENTRIES} files and directories")
                found.append((entry.name, entry.is_dir(follow_symlinks=False)))
        return sorted(found)

    def walk(self) -> Iterator[Directory]:
        """All directories, each before those in it; no link is followed, and those of the kernel are left out.

        One that is deeper than MAX_DEPTH is given, but not what is in it. Raises Unreadable.
        """
        try:
            yield from self._walk()
        except OSError as error:
            raise Unreadable(os.strerror(error.errno or 0)) from error

    def _walk(self) -> Iterator[Directory]:
        # The depth first: as many descriptors are open as the tree is deep.
        stack: list[tuple[int, Directory, Iterator[str]]] = []
        try:
            stack.append(self._entered(self._root, ".", ""))
            yield stack[-1][1]
            while stack:
                fd, here, pending = stack[-1]
                name = next(pending, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                if (not here.path and name in _KERNEL) or len(stack) >= MAX_DEPTH:
                    continue
                path = f"{here.path}/{name}" if here.path else name
                stack.append(self._entered(fd, name, path))
                yield stack[-1][1]
        finally:
            for fd, _, _ in stack:
                os.close(fd)

    def _entered(self, parent: int, name: str, path: str) -> tuple[int, Directory, Iterator[str]]:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            listed = self._listed(fd)
        except BaseException:
            os.close(fd)
            raise
        directories = [each for each, is_directory in listed if is_directory]
        here = Directory(path, directories, [each for each, is_directory in listed if not is_directory])
        return fd, here, iter(directories)

    def spend(self, size: int) -> None:
        """Count bytes that are read. Raises UsedUp."""
        self._bytes -= size
        if self._bytes < 0:
            raise UsedUp(f"more than {MAX_BYTES >> 20} MiB")


class OpenFile:
    """A regular file of an image."""

    def __init__(self, files: ImageFiles, fd: int) -> None:
        self._files = files
        self._fd = fd
        found = os.fstat(fd)
        self.size = found.st_size
        self.identity = (found.st_dev, found.st_ino)
        """Equal for one file that has two paths."""

    def whole(self, most: int) -> bytes:
        """All of it. Raises Unreadable when that is more than `most` bytes."""
        if self.size > most:
            raise Unreadable(f"it has more than {most} bytes")
        return self.at(0, self.size)

    def at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`. Raises Unreadable."""
        self._files.spend(size)
        parts = []
        try:
            while size and (part := os.pread(self._fd, min(size, 1 << 20), offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        except (OSError, OverflowError) as error:
            raise Unreadable("it can't be read") from error
        return b"".join(parts)
