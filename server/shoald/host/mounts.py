"""Mounts: bind, overlay over idmapped layers, unmount.

All calls block (an unmount may write data back): call them in a thread. Errors are those of
`shoald.host.syscall.failure`, with the path and the text of the errno. No failure leaves a mount behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from enum import IntFlag
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.host import syscall
from shoald.host.mountinfo import MountPoint, mount_points, parse_mountinfo, read_mountinfo
from shoald.host.syscall import failure, translated

__all__ = [
    "MountFlags",
    "MountPoint",
    "StrPath",
    "attach",
    "bind",
    "clone_tree",
    "make_private",
    "mount",
    "mount_points",
    "parse_mountinfo",
    "read_mountinfo",
    "set_attributes",
    "unmount",
    "unmount_tree",
]

StrPath = str | os.PathLike[str]

_MS_PRIVATE, _MS_SLAVE, _MS_REC = 1 << 18, 1 << 19, 1 << 14
_MOUNT_ATTR_IDMAP = 0x00100000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_UNMOUNT_PASSES = 10


class MountFlags(IntFlag):
    """Per-mount flags; the values are those of both mount(2) and mount_setattr(2)."""

    NONE = 0
    READ_ONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(
    source: StrPath | None, target: StrPath, fstype: str, flags: MountFlags = MountFlags.NONE, data: str = ""
) -> None:
    """mount(2) of a file system (tmpfs, proc, cgroup...) with its options in `data`."""
    device = os.fsencode(source) if source is not None else fstype.encode()
    with translated(f"mount {fstype} on", target):
        syscall.mount(device, os.fsencode(target), fstype.encode(), int(flags), data.encode() or None)


def make_private(target: StrPath, *, recursive: bool = False) -> None:
    """Stop a mount from propagating to and from other mount namespaces."""
    with translated("make private", target):
        syscall.mount(None, os.fsencode(target), None, _MS_PRIVATE | (_MS_REC if recursive else 0), None)


def clone_tree(source: StrPath | int, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `source` (a path or a descriptor), as a descriptor that the caller closes.

    Unless attached it goes away with the descriptor. Raises a bare OSError.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (syscall.AT_RECURSIVE if recursive else 0)
    if isinstance(source, int):
        return syscall.syscall(syscall.OPEN_TREE, source, b"", flags | syscall.AT_EMPTY_PATH)
    return syscall.syscall(syscall.OPEN_TREE, syscall.AT_FDCWD, os.fsencode(source), flags)


def set_attributes(
    tree: int,
    flags: MountFlags = MountFlags.NONE,
    *,
    userns: int | None = None,
    private: bool = False,
    slave: bool = False,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on a descriptor from `clone_tree`: add flags, map ids, make private (or a slave of the mount
    that it was cloned from). Raises a bare OSError."""
    propagation = _MS_SLAVE if slave else _MS_PRIVATE if private else 0
    attributes = _MountAttr(int(flags), 0, propagation, 0)
    if userns is not None:
        attributes.attr_set |= _MOUNT_ATTR_IDMAP
        attributes.userns_fd = userns
    at = syscall.AT_EMPTY_PATH | (syscall.AT_RECURSIVE if recursive else 0)
    syscall.syscall(syscall.MOUNT_SETATTR, tree, b"", at, attributes, ctypes.sizeof(attributes))


def attach(tree: int, target: StrPath | int) -> None:
    """move_mount(2): put a detached mount at `target` (not followed when a symlink). Raises a bare OSError."""
    with contextlib.ExitStack() as stack:
        if isinstance(target, int):
            directory = target
        else:
            directory = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, directory)
        flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        syscall.syscall(syscall.MOVE_MOUNT, tree, b"", directory, b"", flags)


def bind(
    source: StrPath | int,
    target: StrPath | int,
    *,
    read_only: bool = False,
    recursive: bool = False,
    flags: MountFlags = MountFlags.NONE,
    userns: int | None = None,
    slave: bool = False,
) -> None:
    """Bind mount a file or directory, private, with its flags (and id mapping) set before it can be seen. As a `slave`
    it gets what is mounted below its source later, and never the other way.

    `source` and `target` are paths or O_PATH descriptors (to be safe from a swap of symlinks). `read_only` and `flags`
    also cover mounts below when `recursive`. `userns` is a descriptor from `UserNamespaces` for an idmapped mount.
    """
    path = source if not isinstance(source, int) else f"/proc/self/fd/{source}"
    with translated("bind mount", path):
        tree = clone_tree(source, recursive=recursive)
        try:
            wanted = flags | (MountFlags.READ_ONLY if read_only else MountFlags.NONE)
            set_attributes(tree, wanted, userns=userns, private=not slave, slave=slave, recursive=recursive)
            attach(tree, target)
        finally:
            os.close(tree)


def unmount(target: StrPath, *, detach: bool = False) -> bool:
    """Unmount the top mount at `target`; False when nothing is mounted there. Does not follow a final symlink.

    `detach` hides it now and lets the kernel end it when the last user is gone. Raises FailedPrecondition PATH_BUSY.
    """
    try:
        syscall.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0))
    except OSError as error:
        # EINVAL is "not a mount point" here: the flags are always valid together.
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return False
        raise failure("unmount", error.errno or 0, path=target) from error
    return True


def unmount_tree(prefix: StrPath, *, detach: bool = False) -> list[Path]:
    """Unmount everything at and below `prefix`, the youngest first, stacked mounts too; what it unmounted.

    Raises FailedPrecondition PATH_BUSY when a mount is in use and `detach` is False.
    """
    undone: list[Path] = []
    for _ in range(_UNMOUNT_PASSES):
        mounts = mount_points(prefix)
        if not mounts:
            return undone
        for mounted in reversed(mounts):
            if unmount(mounted.path, detach=detach):
                undone.append(mounted.path)
    left = ", ".join(str(mounted.path) for mounted in mount_points(prefix))
    if left:
        raise FailedPrecondition(f"still mounted below {os.fspath(prefix)!r}: {left}", reason="PATH_BUSY")
    return undone
