"""Enter a container's files from outside, for short-lived programs: nothing of the host can be reached afterwards.

A running container is seen as its own processes see it (mounts and volumes included), one that does not run by its
root file system with its volumes mounted into it. The program holds no more rights than the container's own root: it
joins the container's user namespace, so that even a file that a hostile container puts in its way (a link, a mount, a
device) does to the host nothing that the container could not do by itself. Nothing of the container is executed.

In both cases: no devices, no /proc and /sys (as Docker), no network, and no code is loaded later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from shoald.host import syscall
from shoald.host.confine import CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP, restrict

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET, _CLONE_NEWUSER = 0x00020000, 0x08000000, 0x40000000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT = 0x04 | 0x10 | 0x20
"""From an open tree; links and automounts of the target are followed."""
_ATTR_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_KERNEL = ("/proc", "/sys", "/dev")
_KEEP = frozenset({CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP})

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class View:
    """Which files. Descriptors of namespaces: `mounts` of a running container (None: the working directory is its root
    file system), `users` None where it has the host's. `binds`: (directory on the host, path in the container,
    read-only). `root_id`: the host's id of the container's root."""

    mounts: int | None = None
    users: int | None = None
    binds: Sequence[tuple[str, str, bool]] = ()
    read_only: bool = False
    root_id: int = 0


def enter(view: View) -> None:
    """See the module. Raises OSError. The working directory is the container's root then."""
    if view.mounts is not None:
        _enter_running(view.mounts, view.users)
    else:
        _enter_still(view)
    os.umask(0)
    restrict(keep=_KEEP)


def _enter_running(mounts: int, users: int | None) -> None:
    if users is not None:
        _become_root_of(users)
    syscall.setns(mounts, _CLONE_NEWNS)
    # A copy, in which nothing that the container mounts from now on appears.
    _unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET)
    syscall.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    os.chdir("/")
    for path in _KERNEL:
        with contextlib.suppress(OSError):
            syscall.umount2(path.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    _set_attributes(_ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
    # To the root of the mount namespace itself, whatever a process of the container was in.
    os.chroot(".")


def _enter_still(view: View) -> None:
    _unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET)
    syscall.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    trees = [(_clone(source), target, read_only) for source, target, read_only in view.binds]
    syscall.mount(b".", b".", None, _MS_BIND, None)
    os.chdir(os.getcwdb())
    if _libc.pivot_root(b".", b".") != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    syscall.umount2(b".", _MNT_DETACH)
    os.chroot(".")
    os.chdir("/")
    for tree, target, _ in trees:
        _attach(tree, target, view.root_id)
    _set_attributes(_ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
    if view.read_only:
        _set_attributes(_ATTR_READ_ONLY, recursive=False)
    if view.users is not None:
        _become_root_of(view.users)


def _become_root_of(users: int) -> None:
    syscall.setns(users, _CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _clone(source: str) -> int:
    flags = _OPEN_TREE_CLONE | syscall.AT_RECURSIVE | os.O_CLOEXEC
    return syscall.syscall(syscall.OPEN_TREE, syscall.AT_FDCWD, os.fsencode(source), flags)


def _attach(tree: int, target: str, root_id: int) -> None:
    """Mount a tree at a path of the present root; what of the path is missing is made."""
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    at = ""
    parts = [part for part in target.split("/") if part not in ("", ".", "..")]
    for number, part in enumerate(parts, 1):
        at += "/" + part
        if os.path.lexists(at):
            continue
        if number < len(parts) or is_directory:
            os.mkdir(at, 0o755)
        else:
            os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        os.chown(at, root_id, root_id, follow_symlinks=False)
    try:
        arguments = (tree, b"", syscall.AT_FDCWD, os.fsencode(target), _MOVE_MOUNT)
        syscall.syscall(syscall.MOVE_MOUNT, *arguments)
    finally:
        os.close(tree)


def _set_attributes(attributes: int, *, recursive: bool = True) -> None:
    wanted = _MountAttr(attributes, 0, 0, 0)
    flags = syscall.AT_RECURSIVE if recursive else 0
    syscall.syscall(syscall.MOUNT_SETATTR, syscall.AT_FDCWD, b"/", flags, wanted, ctypes.sizeof(wanted))
