"""Compiled seccomp filters, run in a small machine against the profile that they came from."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from shoal.errors import InvalidArgument, Unimplemented
from shoald.host import seccomp_bpf
from shoald.host.seccomp import linux_seccomp, load_profile, tightened
from shoald.host.seccomp_bpf import compile_filter, resolve_syscalls
from shoald.runtime.capabilities import DEFAULT_CAPABILITIES

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, ERRNO, KILL_PROCESS, KILL = 0x7FFF0000, 0x00050000, 0x80000000, 0

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers below are those of x86_64")


def run_filter(program: bytes, number: int, arch: int = X86_64, args: tuple[int, ...] = ()) -> int:
    """What the kernel would return for a call (struct seccomp_data; classic BPF as libseccomp writes it)."""
    data = struct.pack(
        "<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *args, *[0] * (6 - len(args))
    )
    accumulator, at = 0, 0
    while True:
        code, true, false, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return int(k)
        elif code == 0x05:
            at += k
        elif code == 0x54:
            accumulator &= k
        elif code in (0x15, 0x25, 0x35, 0x45):
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}
            at += true if holds[code] else false
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def expected(seccomp: Mapping[str, Any], name: str, args: tuple[int, ...]) -> set[int]:
    """The actions that the profile names for a call with these arguments: the default, when no rule holds."""
    compare = {
        "SCMP_CMP_NE": lambda value, a, b: value != a,
        "SCMP_CMP_LT": lambda value, a, b: value < a,
        "SCMP_CMP_LE": lambda value, a, b: value <= a,
        "SCMP_CMP_EQ": lambda value, a, b: value == a,
        "SCMP_CMP_GE": lambda value, a, b: value >= a,
        "SCMP_CMP_GT": lambda value, a, b: value > a,
        "SCMP_CMP_MASKED_EQ": lambda value, a, b: value & a == b,
    }
    found: set[int] = set()
    padded = args + (0,) * (6 - len(args))
    for rule in seccomp["syscalls"]:
        held = [
            compare[one["op"]](padded[one["index"]], one["value"], one.get("valueTwo", 0))
            for one in rule.get("args") or ()
        ]
        indexes = [one["index"] for one in rule.get("args") or ()]
        together = all(held) if len(set(indexes)) == len(indexes) else any(held)
        if name in rule["names"] and together:
            found.add(ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ERRNO | rule.get("errnoRet", 1))
    return found or {ERRNO | seccomp.get("defaultErrnoRet", 1)}


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    loaded = load_profile()
    if loaded.document is None:
        pytest.skip(loaded.warning)
    return linux_seccomp(tightened(loaded.document), DEFAULT_CAPABILITIES, "x86_64", (6, 1))


@pytest.mark.parametrize(
    "args",
    [(), (38,), (40,), (16,), (2, 1), (0x20000,), (0x10000000,), (0x7E020000,), (0xFFFFFFFF,), (8,), (0, 0x20008)],
)
def test_every_call_of_the_profile_and_some_that_no_profile_has(profile: dict[str, Any], args: tuple[int, ...]) -> None:
    program = compile_filter(profile)
    names = sorted({name for rule in profile["syscalls"] for name in rule["names"]})
    numbers = resolve_syscalls(names)
    assert len(numbers) > 300
    for name, number in numbers.items():
        assert run_filter(program, number, args=args) in expected(profile, name, args), (name, args)
    known = set(numbers.values())
    for number in set(range(600)) - known:
        assert run_filter(program, number, args=args) == ERRNO | profile["defaultErrnoRet"], number


def test_other_architectures(profile: dict[str, Any]) -> None:
    program = compile_filter(profile)
    assert run_filter(program, 4, I386) == ALLOW  # write
    assert run_filter(program, 21, I386) == ERRNO | 1  # mount needs CAP_SYS_ADMIN
    assert run_filter(program, 0x40000001, X86_64) == ALLOW  # x32: write
    assert run_filter(program, 1, 0xC00000B7) in (KILL, KILL_PROCESS)  # aarch64 is none of the profile's
    native = compile_filter({**profile, "architectures": ["SCMP_ARCH_X86_64"]})
    assert run_filter(native, 4, I386) in (KILL, KILL_PROCESS)
    assert run_filter(native, 1) == ALLOW


def test_alternatives_of_one_argument() -> None:
    rule = {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}
    compared = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (2, 10)]
    program = compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{**rule, "args": compared}]})
    number = resolve_syscalls(["socket"])["socket"]
    assert [run_filter(program, number, args=(value,)) for value in (2, 10, 3)] == [ALLOW, ALLOW, ERRNO | 1]
    compared[1]["index"] = 1
    program = compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{**rule, "args": compared}]})
    assert [run_filter(program, number, args=pair) for pair in ((2, 10), (2, 1), (1, 10))] == [
        ALLOW,
        ERRNO | 1,
        ERRNO | 1,
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "x"},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "x", "value": 1}]}
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}],
        },
    ],
)
def test_what_can_not_be_compiled(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        compile_filter(bad)
    assert caught.value.reason == "INVALID_SECCOMP"


def test_unknown_calls_are_left_out() -> None:
    rules = [{"names": ["no_such_call", "write"], "action": "SCMP_ACT_ALLOW"}]
    program = compile_filter({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": rules})
    assert (run_filter(program, 1), run_filter(program, 0)) == (ALLOW, ERRNO | 38)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_bpf, "_LIBRARY", "libno-such-library.so")
    seccomp_bpf._library.cache_clear()
    try:
        with pytest.raises(Unimplemented) as caught:
            compile_filter({"defaultAction": "SCMP_ACT_ALLOW"})
    finally:
        monkeypatch.undo()
        seccomp_bpf._library.cache_clear()
    assert caught.value.reason == "NO_LIBSECCOMP"
