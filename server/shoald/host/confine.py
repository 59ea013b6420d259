"""Lock this process into its working directory: for short-lived programs that handle what others made.

After `confine` the process has a root of its own without anything of the host, no network, few capabilities, and
can't load code any more: nothing that an image holds (libraries, gconv or NSS modules, Python files) is ever run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP = 0, 1, 3, 4, 21, 27, 31
_LAST_CAP = 40

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_CAP_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def confine(*, keep: frozenset[int], raised_later: frozenset[int] = frozenset()) -> None:
    """Make the working directory the root and give up all but the capabilities `keep` (which stay effective) and
    `raised_later` (only permitted: see `Raised`). Raises OSError. Call it before any thread starts."""
    _call(_libc.unshare, _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET)
    _call(_libc.mount, None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    _call(_libc.mount, b".", b".", None, ctypes.c_ulong(_MS_BIND), None)
    # The path now leads onto the new mount.
    os.chdir(os.getcwdb())
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _call(_libc.mount, None, b".", None, ctypes.c_ulong(flags), None)
    # pivot_root(".", "."): the old root is then mounted above the new one, and goes.
    _call(_libc.pivot_root, b".", b".")
    _call(_libc.umount2, b".", _MNT_DETACH)
    os.chroot(".")
    os.chdir("/")
    restrict(keep=keep, raised_later=raised_later)


def restrict(*, keep: frozenset[int], raised_later: frozenset[int] = frozenset()) -> None:
    """The half of `confine` that comes after the change of roots: no more code, few capabilities."""
    _forbid_imports()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _drop(keep, raised_later)


def _forbid_imports() -> None:
    sys.path.clear()
    sys.path_hooks.clear()
    sys.meta_path.clear()


def _drop(keep: frozenset[int], raised_later: frozenset[int]) -> None:
    wanted = keep | raised_later
    for capability in range(_LAST_CAP + 1):
        if capability not in wanted:
            _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
    _, permitted = _get()
    _set(_bits(keep) & permitted, _bits(wanted) & permitted)
    # Without the daemon nobody wants the result.
    _call(_libc.prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class Raised:
    """A context in which a capability that is only permitted is effective, for this thread."""

    def __init__(self, capability: int) -> None:
        self._bit = 1 << capability
        self._before = (0, 0)

    def __enter__(self) -> None:
        self._before = _get()
        effective, permitted = self._before
        _set(effective | (self._bit & permitted), permitted)

    def __exit__(self, *_: object) -> None:
        _set(*self._before)


def _bits(capabilities: frozenset[int]) -> int:
    return sum(1 << capability for capability in capabilities)


def _get() -> tuple[int, int]:
    header, data = _CapHeader(_CAP_VERSION_3, 0), (_CapData * 2)()
    _call(_libc.capget, ctypes.byref(header), data)
    return data[0].effective | data[1].effective << 32, data[0].permitted | data[1].permitted << 32


def _set(effective: int, permitted: int) -> None:
    header, data = _CapHeader(_CAP_VERSION_3, 0), (_CapData * 2)()
    for half in (0, 1):
        data[half].effective = effective >> 32 * half & 0xFFFFFFFF
        data[half].permitted = permitted >> 32 * half & 0xFFFFFFFF
    _call(_libc.capset, ctypes.byref(header), data)


def _call(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function.__name__}: {os.strerror(code)}")
