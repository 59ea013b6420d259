"""A seccomp profile that a caller sends, in Docker's format: checked to the last field before anything is made of it.

https://docs.docker.com/engine/security/seccomp/; what becomes of it is the work of `shoald.host.seccomp`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from shoal.errors import InvalidArgument, Unimplemented
from shoald.host.seccomp import linux_seccomp
from shoald.host.seccomp_bpf import compile_filter

_Index = Annotated[int, Meta(ge=0, le=5)]
_Word = Annotated[int, Meta(ge=0)]
_MAX_WORD = 2**64 - 1
_Errno = Annotated[int, Meta(ge=0, le=4095)]
_Texts = list[str] | None
_FLAGS = frozenset({"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"})


class _Argument(Struct, rename="camel"):
    index: _Index
    op: str
    value: _Word = 0
    value_two: _Word = 0


class _Filter(Struct, rename="camel"):
    caps: _Texts = None
    arches: _Texts = None
    min_kernel: Annotated[str, Meta(pattern=r"^(\d{1,4}\.\d{1,4}.*)?$")] = ""


class _Rule(Struct, rename="camel"):
    action: str
    names: _Texts = None
    name: str = ""
    args: list[_Argument] | None = None
    errno_ret: _Errno | None = None
    errno: str | None = None
    includes: _Filter | None = None
    excludes: _Filter | None = None


class _ArchMap(Struct, rename="camel"):
    architecture: str
    sub_architectures: _Texts = None


class _Profile(Struct, rename="camel"):
    default_action: str
    default_errno_ret: _Errno | None = None
    default_errno: str | None = None
    architectures: _Texts = None
    arch_map: list[_ArchMap] | None = None
    flags: _Texts = None
    syscalls: list[_Rule] | None = None
    listener_path: str = ""


def custom_seccomp(text: str, capabilities: Collection[str], machine: str, kernel: tuple[int, int]) -> dict[str, Any]:
    """The `linux.seccomp` object for a container with these capabilities. Raises InvalidArgument (INVALID_SECCOMP)."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
        document: Mapping[str, Any] = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {error}", reason="INVALID_SECCOMP") from None
    if profile.listener_path:
        raise _invalid("a listener is not supported")
    unknown = sorted(set(profile.flags or ()) - _FLAGS)
    if unknown:
        raise _invalid(f"unknown flag {unknown[0]}")
    for rule in profile.syscalls or ():
        if bool(rule.name) == bool(rule.names):
            raise _invalid("a rule has either name or names")
        if any(max(argument.value, argument.value_two) > _MAX_WORD for argument in rule.args or ()):
            raise _invalid("a value has more than 64 bits")
    try:
        converted = linux_seccomp(document, capabilities, machine, kernel)
        compile_filter(converted)
    except Unimplemented:
        return converted  # Without libseccomp here the runtime will tell what it thinks of it.
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _invalid(repr(error)) from error
    return converted


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(f"seccomp profile: {why}", reason="INVALID_SECCOMP")
