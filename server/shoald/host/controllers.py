"""The cgroup v1 controllers that crun insists on: mounted by a daemon that needs them, unmounted after the last one.

A hybrid host (v1 with v2 beside it) may leave a controller to v2 that no v1 hierarchy has; crun then refuses to work.
Every daemon keeps a descriptor of what was mounted: the kernel then refuses to unmount it under another daemon.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.host import cgroups
from shoald.host.mounts import unmount

NOTE = Path("/run/shoal-cgroup-controllers")
"""Names of the controllers that a daemon of ours mounted, one a line; a tmpfs, gone with the mounts after a reboot."""


class MountedControllers:
    """What this daemon uses of them."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def mount(self) -> list[str]:
        """Mount what is missing, note it, and hold all that is noted; the names that were mounted now."""
        with _alone():
            mounted = cgroups.mount_missing_v1_controllers()
            if mounted:
                fd = os.open(NOTE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(fd, "w", encoding="ascii") as file:
                    file.writelines(f"{name}\n" for name in mounted)
            self.hold()
        return mounted

    def hold(self) -> None:
        """Hold what is noted."""
        for name in noted():
            with contextlib.suppress(OSError):
                self._held.append(os.open(cgroups.ROOT / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        """Let go. The mounts stay: containers go on."""
        while self._held:
            os.close(self._held.pop())


def noted() -> list[str]:
    """Controllers that a daemon of ours mounted."""
    try:
        return sorted({name for name in NOTE.read_text().split() if name.isidentifier()})
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One daemon of this machine at a time: of two that mount the same, the second is told EBUSY."""
    fd = os.open(cgroups.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def unmount_unused() -> None:
    """For the purge of a daemon: unmount what daemons of ours mounted and none uses any more. Groups in it without
    processes go, also those that other engines left there while it was mounted; one with processes keeps it."""
    with _alone():
        _unmount_unused()


def _unmount_unused() -> None:
    for name in noted():
        target = cgroups.ROOT / name
        for directory, _, _ in os.walk(target, topdown=False):
            if directory != str(target):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        if any(entry.is_dir(follow_symlinks=False) for entry in _entries(target)):
            return  # somebody's containers
        try:
            unmount(target)
        except FailedPrecondition:
            return  # another daemon holds it
        with contextlib.suppress(OSError):
            target.rmdir()
    NOTE.unlink(missing_ok=True)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(directory))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
