"""System calls that the standard library lacks, and the one translation of `errno` into shoal's errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno as errnos
import os
from collections.abc import Iterator

from shoal.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    ShoalError,
    Unimplemented,
)

_libc = ctypes.CDLL(None, use_errno=True)

# Since Linux 5.1 new calls have one number on every architecture.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 428, 429, 430, 431, 432
OPENAT2, MOUNT_SETATTR = 437, 442

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000

CLONE_NEWNET = 0x40000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_EXHAUSTED = {
    errnos.ENOSPC: "DISK_FULL",
    errnos.EDQUOT: "QUOTA_EXCEEDED",
    errnos.EMFILE: "TOO_MANY_OPEN_FILES",
    errnos.ENFILE: "TOO_MANY_OPEN_FILES",
    errnos.ENOMEM: "OUT_OF_MEMORY",
    errnos.EUSERS: "TOO_MANY_USER_NAMESPACES",
}


def failure(what: str, code: int, *, path: str | os.PathLike[str] | None = None, detail: str = "") -> ShoalError:
    """Make the error for a system call that failed with `code` while doing `what` (for example "mount overlay").

    The message holds the path and the text of the errno, plus `detail` (what the kernel itself says); metadata has
    `errno` by name and `path`.
    """
    name = errnos.errorcode.get(code, str(code))
    where = f" {os.fspath(path)!r}" if path is not None else ""
    message = f"{what}{where}: {detail + ': ' if detail else ''}{os.strerror(code)}"
    metadata = {"errno": name}
    if path is not None:
        metadata["path"] = os.fspath(path)
    if code in _EXHAUSTED:
        hint = "free some space: remove images, containers or volumes that are no longer needed"
        full = code in (errnos.ENOSPC, errnos.EDQUOT)
        return ResourceExhausted(message, reason=_EXHAUSTED[code], hint=hint if full else None, metadata=metadata)
    if code in (errnos.EPERM, errnos.EACCES):
        hint = "run shoald as root with all capabilities; see `shoald doctor`"
        return FailedPrecondition(message, reason="NOT_PERMITTED", hint=hint, metadata=metadata)
    if code in (errnos.ENOSYS, errnos.EOPNOTSUPP, errnos.ENODEV):
        hint = "the kernel lacks this feature; see `shoald doctor`"
        return Unimplemented(message, reason="KERNEL_UNSUPPORTED", hint=hint, metadata=metadata)
    if code == errnos.ENOENT:
        return NotFound(message, reason="PATH_NOT_FOUND", metadata=metadata)
    if code == errnos.EEXIST:
        return AlreadyExists(message, reason="PATH_EXISTS", metadata=metadata)
    if code == errnos.EBUSY:
        return FailedPrecondition(message, reason="PATH_BUSY", metadata=metadata)
    return Internal(message, reason="SYSCALL_FAILED", metadata=metadata)


@contextlib.contextmanager
def translated(what: str, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turn an OSError that leaves the block into the shoal error for it (see `failure`)."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise failure(what, error.errno, path=path if path is not None else error.filename) from error


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """Call the kernel by number; raises a bare OSError (the caller knows the path).

    Integers go as C longs (never truncated to int), bytes as C strings, structures by address, None as NULL.
    """
    passed: list[object] = []
    for argument in arguments:
        if isinstance(argument, int):
            passed.append(ctypes.c_long(argument))
        elif isinstance(argument, ctypes.Structure):
            passed.append(ctypes.byref(argument))
        elif argument is None:
            passed.append(ctypes.c_void_p(None))
        else:
            passed.append(argument)
    result: int = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mount(source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2); raises a bare OSError."""
    if _libc.mount(source, target, fstype, ctypes.c_ulong(flags), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def umount2(target: bytes, flags: int) -> None:
    """umount2(2); raises a bare OSError."""
    if _libc.umount2(target, ctypes.c_int(flags)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def setns(fd: int, nstype: int) -> None:
    """setns(2) for the calling THREAD; raises a bare OSError."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(nstype)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def syncfs(fd: int) -> None:
    """syncfs(2): write the whole file system that holds `fd` to its disk; raises a bare OSError."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str | os.PathLike[str], flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2), always close-on-exec; raises a bare OSError. `directory` may be AT_FDCWD.

    `mode` is used only when O_CREAT is among the flags; a resolve failure is ELOOP (symlink), EXDEV (mount or escape).
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return syscall(OPENAT2, directory, os.fsencode(path), how, ctypes.sizeof(how))
