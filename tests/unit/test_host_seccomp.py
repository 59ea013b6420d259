"""The containers-common profile becomes the OCI object that one container needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoald.host.seccomp import linux_seccomp, load_profile, tightened

DOCUMENT: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "defaultErrno": "ENOSYS",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 4294967295, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["not_on_arm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
        {
            "names": ["bpf"],
            "action": "SCMP_ACT_ERRNO",
            "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]},
            "errnoRet": 1,
            "errno": "EPERM",
        },
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"name": "old_style", "action": "SCMP_ACT_ALLOW", "errno": "EPERM"},
        {"names": [], "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["masked"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 1, "value": 5, "valueTwo": 6, "op": "SCMP_CMP_MASKED_EQ"}],
        },
    ],
}


def actions(result: dict[str, Any], name: str) -> list[str]:
    return [rule["action"] for rule in result["syscalls"] if name in rule["names"]]


def test_whole_object_for_an_ordinary_container() -> None:
    assert linux_seccomp(DOCUMENT, ["CAP_CHOWN"], "x86_64", (6, 1)) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}],
            },
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["not_on_arm"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["old_style"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["masked"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 5, "valueTwo": 6, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    }


@pytest.mark.parametrize(
    ("capabilities", "machine", "kernel", "name", "expected"),
    [
        # `includes.caps` wants all of them; `excludes.caps` is set off by any of them.
        ([], "x86_64", (6, 1), "bpf", ["SCMP_ACT_ERRNO"]),
        (["CAP_BPF"], "x86_64", (6, 1), "bpf", []),
        (["CAP_BPF", "CAP_SYS_ADMIN"], "x86_64", (6, 1), "bpf", ["SCMP_ACT_ALLOW"]),
        ([], "aarch64", (6, 1), "arch_prctl", []),
        ([], "aarch64", (6, 1), "arm_only", ["SCMP_ACT_ALLOW"]),
        ([], "aarch64", (6, 1), "not_on_arm", []),
        ([], "x86_64", (4, 7), "ptrace", []),
        ([], "x86_64", (4, 8), "ptrace", ["SCMP_ACT_ALLOW"]),
    ],
)
def test_conditions(
    capabilities: list[str], machine: str, kernel: tuple[int, int], name: str, expected: list[str]
) -> None:
    assert actions(linux_seccomp(DOCUMENT, capabilities, machine, kernel), name) == expected


def test_unknown_machine_gets_no_architectures_rather_than_wrong_ones() -> None:
    assert "architectures" not in linux_seccomp(DOCUMENT, [], "weird", (6, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "no defaultAction"),
        ('{"syscalls": []}', "no defaultAction"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"]}]}', "malformed"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSUCH"}', "malformed"),
    ],
)
def test_a_bad_file_is_a_warning(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "seccomp.json"
    if content is not None:
        path.write_text(content)
    profile = load_profile(path)
    assert profile.document is None
    assert words in profile.warning


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "seccomp.json"
    path.write_text(json.dumps(DOCUMENT))
    profile = load_profile(path)
    assert profile.document == DOCUMENT
    assert profile.warning == ""


COMMON: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [
        {
            "names": ["read", "clone", "clone3", "keyctl", "mount", "pivot_root", "setns", "socketcall", "unshare"],
            "action": "SCMP_ACT_ALLOW",
        },
        {"names": ["setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"name": "socket", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_AUDIT_WRITE"]}},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 2, "value": 9, "op": "SCMP_CMP_NE"}],
            "excludes": {"caps": ["CAP_AUDIT_WRITE"]},
        },
    ],
}


def _rules(capabilities: list[str], name: str, machine: str = "x86_64") -> list[dict[str, Any]]:
    result = linux_seccomp(tightened(COMMON), capabilities, machine, (6, 1))
    return [{**rule, "names": [name]} for rule in result["syscalls"] if name in rule["names"]]


@pytest.mark.parametrize(
    "name", ["mount", "setns", "unshare", "umount2", "fsopen", "keyctl", "pivot_root", "socketcall"]
)
def test_tightened_refuses_what_docker_refuses(name: str) -> None:
    assert _rules([], name) == [{"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]


def test_tightened_keeps_what_is_harmless_and_gives_an_administrator_the_rest() -> None:
    assert [rule["action"] for rule in _rules([], "read")] == ["SCMP_ACT_ALLOW"]
    for name in ("mount", "setns", "unshare", "clone", "clone3"):
        assert _rules(["CAP_SYS_ADMIN"], name) == [{"names": [name], "action": "SCMP_ACT_ALLOW"}]


@pytest.mark.parametrize(("machine", "index"), [("x86_64", 0), ("aarch64", 0), ("s390x", 1)])
def test_tightened_lets_clone_make_no_namespaces(machine: str, index: int) -> None:
    # A masked comparison with 0 has no second value: 0 is what it is without one.
    flags = {"index": index, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}
    assert _rules([], "clone", machine) == [{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [flags]}]
    assert _rules([], "clone3", machine) == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]


@pytest.mark.parametrize("capabilities", [[], ["CAP_AUDIT_WRITE"]])
def test_tightened_allows_all_address_families_but_two(capabilities: list[str]) -> None:
    compare = {"SCMP_CMP_LT": int.__lt__, "SCMP_CMP_EQ": int.__eq__, "SCMP_CMP_GT": int.__gt__}
    rules = _rules(capabilities, "socket")
    refused = [
        family
        for family in range(64)
        if not any(all(compare[a["op"]](family, a["value"]) for a in rule["args"]) for rule in rules)
    ]
    assert refused == [38, 40]
