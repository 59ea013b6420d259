"""Compiling a seccomp profile once, instead of at every start of a container (13 ms there, of 20).

libseccomp is the library that the OCI runtimes themselves use; it is called through ctypes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from shoal.errors import InvalidArgument, Unimplemented

_LIBRARY = "libseccomp.so.2"
_UNKNOWN_SYSCALL = -1
_EEXIST = 17
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
"""A filter that finds a call in about nine comparisons, not in hundreds (libseccomp 2.5)."""

_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = {
    name: number
    for number, name in enumerate(
        (
            "SCMP_CMP_NE",
            "SCMP_CMP_LT",
            "SCMP_CMP_LE",
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_MASKED_EQ",
        ),
        start=1,
    )
}


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Unimplemented(
            f"{_LIBRARY}: {error}", reason="NO_LIBSECCOMP", hint="apt-get install libseccomp2"
        ) from None
    pointer = ctypes.c_void_p
    library.seccomp_init.argtypes, library.seccomp_init.restype = (ctypes.c_uint32,), pointer
    library.seccomp_release.argtypes, library.seccomp_release.restype = (pointer,), None
    library.seccomp_attr_set.argtypes = (pointer, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_arch_add.argtypes = (pointer, ctypes.c_uint32)
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        *(pointer, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (pointer, ctypes.c_int)
    return library


def compile_filter(seccomp: Mapping[str, Any]) -> bytes:
    """The classic BPF program (`struct sock_filter[]`) of a `linux.seccomp` object of the OCI runtime spec.

    System calls that this libseccomp does not know are left out, as crun and runc do. Raises Unimplemented
    (NO_LIBSECCOMP), InvalidArgument (INVALID_SECCOMP).
    """
    library = _library()
    default = _action(str(seccomp["defaultAction"]), seccomp.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    if not context:
        raise InvalidArgument("bad default action of a seccomp profile", reason="INVALID_SECCOMP")
    try:
        # Refused by libseccomp before 2.5: then the filter is slower, and right.
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
        for name in seccomp.get("architectures", ()):
            _add_architecture(library, context, name)
        for rule in seccomp.get("syscalls", ()):
            action = _action(str(rule["action"]), rule.get("errnoRet"))
            if action != default:
                _add_rule(library, context, action, rule)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _add_architecture(library: ctypes.CDLL, context: int, name: str) -> None:
    token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    if not token or -library.seccomp_arch_add(context, token) not in (0, _EEXIST):
        raise InvalidArgument(f"seccomp: bad architecture {name}", reason="INVALID_SECCOMP")


def _add_rule(library: ctypes.CDLL, context: int, action: int, rule: Mapping[str, Any]) -> None:
    comparisons = [_comparison(argument) for argument in rule.get("args") or ()]
    indexes = [comparison.arg for comparison in comparisons]
    # Comparisons of different arguments must all hold; of one and the same argument, any of them (as crun and runc do).
    alternatives = [comparisons] if len(set(indexes)) == len(indexes) else [[one] for one in comparisons]
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_SYSCALL:
            continue
        for alternative in alternatives:
            array = (_Comparison * len(alternative))(*alternative)
            failed = library.seccomp_rule_add_array(context, action, number, len(alternative), array)
            if failed:
                message = f"seccomp: rule for {name}: {os.strerror(-failed)}"
                raise InvalidArgument(message, reason="INVALID_SECCOMP")


def _comparison(argument: Mapping[str, Any]) -> _Comparison:
    operator = _OPERATORS.get(argument["op"])
    if operator is None:
        raise InvalidArgument(f"seccomp: bad operator {argument['op']}", reason="INVALID_SECCOMP")
    return _Comparison(argument["index"], operator, argument.get("value", 0), argument.get("valueTwo", 0))


def _action(name: str, errno: int | None) -> int:
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        # Without a number it is EPERM (OCI runtime spec, config-linux.md "Seccomp").
        return (_ERRNO if name == "SCMP_ACT_ERRNO" else _TRACE) | ((1 if errno is None else errno) & 0xFFFF)
    if name not in _ACTIONS:
        raise InvalidArgument(f"seccomp: action {name} can't be compiled", reason="INVALID_SECCOMP")
    return _ACTIONS[name]


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        failed = library.seccomp_export_bpf(context, fd)
        if failed:
            raise InvalidArgument(f"seccomp: {os.strerror(-failed)}", reason="INVALID_SECCOMP")
        chunks: list[bytes] = []
        offset = 0
        while chunk := os.pread(fd, 1 << 16, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def resolve_syscalls(names: Sequence[str]) -> dict[str, int]:
    """Numbers of system calls on this machine's own architecture; unknown ones are left out."""
    library = _library()
    numbers = {name: int(library.seccomp_syscall_resolve_name(name.encode())) for name in names}
    return {name: number for name, number in numbers.items() if number >= 0}
