"""Device nodes of the host: what a path stands for, and copies of them for a container."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument
from shoald.host.mounts import MountFlags, mount
from shoald.host.syscall import failure, translated

_DEV = Path("/dev")
_NOT_DEVICES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
"""Directories of /dev that hold other things, which Docker passes over too."""

_MAX_NODES = 4096


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device node. `below`: its place below the directory that was asked for, "" for the path itself."""

    path: str
    below: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


def devices_at(path: str) -> list[HostDevice]:
    """The device at `path` (links followed), or all of them below it when it is a directory.

    Raises InvalidArgument (DEVICE_MISSING, NOT_A_DEVICE).
    """
    place = Path(path)
    try:
        resolved = place.resolve(strict=True)
        if resolved.is_dir():
            found = list(_below(resolved))
        else:
            node = _node(resolved, "")
            found = [node] if node is not None else []
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else "its links go round in a circle"
        raise InvalidArgument(
            f"error gathering device information: {path}: {why}", reason="DEVICE_MISSING", metadata={"path": path}
        ) from error
    if not found:
        raise InvalidArgument(f"{path} is not a device of this host", reason="NOT_A_DEVICE", metadata={"path": path})
    return found


def all_devices() -> list[HostDevice]:
    """Every device node of the host's /dev, but for its console."""
    return [device for device in _below(_DEV) if device.path != "/dev/console"]


def block_device(path: str) -> tuple[int, int]:
    """Major and minor number of the block device at `path`. Raises InvalidArgument (DEVICE_MISSING, NOT_A_DEVICE)."""
    (device, *_) = devices_at(path)
    if device.kind != "b" or device.below:
        raise InvalidArgument(f"{path} is not a block device", reason="NOT_A_DEVICE", metadata={"path": path})
    return device.major, device.minor


def _below(top: Path) -> Iterator[HostDevice]:
    count = 0
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name not in _NOT_DEVICES)
        for name in sorted(files):
            place = Path(directory) / name
            node = _node(place, str(place.relative_to(top)))
            if node is not None:
                count += 1
                if count > _MAX_NODES:
                    raise InvalidArgument(f"more than {_MAX_NODES} devices below {top}", reason="TOO_MANY_DEVICES")
                yield node


def _node(place: Path, below: str) -> HostDevice | None:
    try:
        found = place.lstat()
    except FileNotFoundError:
        return None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        return None
    kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
    numbers = os.major(found.st_rdev), os.minor(found.st_rdev)
    return HostDevice(str(place), below, kind, *numbers, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def make_nodes(directory: Path, nodes: Sequence[tuple[str, int, int, int]], owners: Sequence[tuple[int, int]]) -> None:
    """Make nodes 0000, 0001... of (kind, major, minor, mode) in a new tmpfs at `directory`, which the caller unmounts.

    A tmpfs of our own, since /run may be mounted nodev.
    """
    with translated("make directory", directory):
        directory.mkdir(mode=0o711, exist_ok=True)
    mount("tmpfs", directory, "tmpfs", MountFlags.NOSUID | MountFlags.NOEXEC, "mode=711,size=64k")
    for number, ((kind, major, minor, mode), (uid, gid)) in enumerate(zip(nodes, owners, strict=True)):
        path = directory / f"{number:04d}"
        try:
            os.mknod(path, (stat.S_IFBLK if kind == "b" else stat.S_IFCHR) | mode, os.makedev(major, minor))
            os.chown(path, uid, gid)
            os.chmod(path, mode)
        except OSError as error:
            raise failure("make device node", error.errno or 0, path=path) from error
