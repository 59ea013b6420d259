"""Reading inside a container's root file system as the container sees it: its links never lead to the host."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from shoal.errors import InvalidArgument
from shoald.host.syscall import RESOLVE_NO_MAGICLINKS, openat2, translated

RESOLVE_IN_ROOT = 0x10
MAX_LINKS = 40


def read_file(rootfs: Path, path: str, *, limit: int) -> bytes | None:
    """A regular file below `rootfs`, symlinks resolved inside of it; None when there is none.

    Raises InvalidArgument (FILE_TOO_LARGE) beyond `limit` bytes.
    """
    with translated("open", rootfs):
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = openat2(root, path.lstrip("/"), os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EXDEV):
                return None
            raise
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        # Looked at before it is opened: to open a device of the image's making can do anything, even start a watchdog.
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise InvalidArgument(f"{path} in the image is larger than {limit} bytes", reason="FILE_TOO_LARGE")
    return data


def steps(rootfs: Path, path: str, mounts: Mapping[str, str]) -> Iterator[str]:
    """Where the container's kernel will be after each step of resolving `path`; what does not exist stays as written.

    `mounts`: container path -> host path of what will be mounted there. Raises InvalidArgument (TOO_MANY_LINKS).
    """
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        target = _link_target(rootfs, mounts, done, part)
        if target is None:
            done.append(part)
            yield "/" + "/".join(done)
            continue
        links += 1
        if links > MAX_LINKS:
            raise InvalidArgument(f"{path!r} leads through too many symbolic links", reason="TOO_MANY_LINKS")
        if target.startswith("/"):
            done.clear()
        todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]


def _link_target(rootfs: Path, mounts: Mapping[str, str], done: list[str], part: str) -> str | None:
    """The target when `part` in the (link-free) directory `done` is a symlink, and not a mount point."""
    here = "/" + "/".join([*done, part])
    if here in mounts:
        return None
    base, below = _mounted_base(rootfs, mounts, done)
    with _directory(base, below) as directory:
        if directory is None:
            return None
        try:
            return os.readlink(part, dir_fd=directory)
        except OSError:
            return None


def _mounted_base(rootfs: Path, mounts: Mapping[str, str], done: list[str]) -> tuple[str, list[str]]:
    for length in range(len(done), 0, -1):
        source = mounts.get("/" + "/".join(done[:length]))
        if source is not None:
            return source, done[length:]
    return str(rootfs), done


@contextlib.contextmanager
def _directory(base: str, below: list[str]) -> Iterator[int | None]:
    fds: list[int] = []
    try:
        try:
            fds.append(os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            for name in below:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fds.append(os.open(name, flags, dir_fd=fds[-1]))
        except OSError:
            yield None
            return
        yield fds[-1]
    finally:
        for fd in fds:
            os.close(fd)
