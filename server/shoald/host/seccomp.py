"""The default seccomp profile: the containers-common file, converted to the OCI runtime specification's form.

The file (/usr/share/containers/seccomp.json, Debian golang-github-containers-common) has rules that depend on the
capabilities, the architecture and the kernel; the OCI form (config-linux.md, "Seccomp") is what remains of them for one
container.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_PROFILE = Path("/usr/share/containers/seccomp.json")

_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}
"""`uname -m` -> (the name in `includes.arches`, the libseccomp constant)."""


_NEEDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "CAP_SYS_ADMIN",
        (
            *("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree"),
            *("quotactl_fd", "setns", "umount", "umount2", "unshare"),
        ),
    ),
    ("CAP_SYS_BOOT", ("reboot",)),
    ("CAP_SYS_NICE", ("get_mempolicy", "mbind", "set_mempolicy")),
    ("CAP_SYS_PTRACE", ("pidfd_getfd",)),
    ("CAP_SYSLOG", ("syslog",)),
)
"""Calls that Docker's profile allows only with a capability and containers-common to everybody."""

_NEVER = ("keyctl", "pivot_root", "socketcall")
"""Calls that Docker's profile does not have; socketcall would be a way around the rules for `socket`."""

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (linux/sched.h)."""

_SOCKETS: tuple[tuple[int, str], ...] = ((38, "SCMP_CMP_LT"), (39, "SCMP_CMP_EQ"), (40, "SCMP_CMP_GT"))
"""Every address family but AF_ALG (38; CVE-2026-31431) and AF_VSOCK (40, which knows no network namespaces). libseccomp
takes one comparison of an argument in a rule, hence three."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile file that was read, or why there is none: `document` None and `warning` for people (see the doctor)."""

    document: Mapping[str, Any] | None
    warning: str = ""


def load_profile(path: Path = DEFAULT_PROFILE) -> Profile:
    """Read a profile file. Never raises: what is wrong is in `warning`."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        hint = "; apt-get install golang-github-containers-common" if path == DEFAULT_PROFILE else ""
        return Profile(None, f"no seccomp profile at {path}: {error.strerror}{hint}")
    except ValueError as error:
        return Profile(None, f"seccomp profile {path} is not JSON: {error}")
    if not isinstance(document, dict) or not isinstance(document.get("defaultAction"), str):
        return Profile(None, f"seccomp profile {path} has no defaultAction")
    try:
        linux_seccomp(document, (), "x86_64")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Profile(None, f"seccomp profile {path} is malformed: {error!r}")
    return Profile(document)


def linux_seccomp(
    document: Mapping[str, Any], capabilities: Collection[str], machine: str, kernel: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """The `linux.seccomp` object for a container with these capabilities ("CAP_..."; its bounding set). Pure.

    `machine` is `uname -m`; `kernel` (major, minor) decides the rules with a minKernel. Rules for another architecture,
    without all the capabilities they include, or with one that they exclude, are dropped.
    """
    name, constant = _ARCHITECTURES.get(machine, (machine, ""))
    result: dict[str, Any] = {"defaultAction": document["defaultAction"]}
    default_errno = _errno(document.get("defaultErrno"), document.get("defaultErrnoRet"))
    if default_errno is not None:
        result["defaultErrnoRet"] = default_errno
    architectures = _with_subarchitectures(document, constant)
    if architectures:
        result["architectures"] = architectures
    if document.get("flags"):
        result["flags"] = list(document["flags"])
    rules: list[dict[str, Any]] = []
    for rule in document.get("syscalls") or ():
        if _applies(rule, frozenset(capabilities), name, kernel):
            converted = _rule(rule)
            if converted["names"] and converted not in rules:
                rules.append(converted)
    result["syscalls"] = rules
    return result


def tightened(document: Mapping[str, Any]) -> dict[str, Any]:
    """The profile with what Docker's default refuses beyond containers-common's. Pure.

    containers-common lets every process make user namespaces and mount in them, for the sake of containers in
    containers; most privilege escalations of the kernel begin there. It also allows AF_ALG sockets and key rings. Who
    needs them names a profile of their own (runtime.seccomp_profile), which is taken as it is.
    """
    gated = {name for _, names in _NEEDS for name in names}
    replaced = {*gated, *_NEVER, "clone", "clone3", "socket"}
    rules: list[Mapping[str, Any]] = []
    for rule in document.get("syscalls") or ():
        names = [*(rule.get("names") or ()), *([rule["name"]] if rule.get("name") else [])]
        rest = {key: value for key, value in rule.items() if key != "name"}
        rules.append({**rest, "names": [name for name in names if name not in replaced]})
    for capability, calls in _NEEDS:
        held, missing = {"includes": {"caps": [capability]}}, {"excludes": {"caps": [capability]}}
        rules.append({"names": list(calls), "action": "SCMP_ACT_ALLOW", **held})
        rules.append({"names": list(calls), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM, **missing})
    rules.append({"names": list(_NEVER), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM})
    return {**document, "syscalls": [*rules, *_clone_rules(), *_socket_rules()]}


def _clone_rules() -> list[dict[str, Any]]:
    """clone() without new namespaces; clone3(), whose flags no filter can see, not at all: libc then takes clone()."""
    admin, s390 = {"caps": ["CAP_SYS_ADMIN"]}, ["s390", "s390x"]

    def plain(index: int) -> dict[str, Any]:
        flags = {"index": index, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        return {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [flags]}

    return [
        {"names": ["clone", "clone3"], "action": "SCMP_ACT_ALLOW", "includes": admin},
        {**plain(0), "excludes": {**admin, "arches": s390}},
        {**plain(1), "includes": {"arches": s390}, "excludes": admin},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS, "excludes": admin},
    ]


def _socket_rules() -> list[dict[str, Any]]:
    return [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": family, "valueTwo": 0, "op": comparison}],
        }
        for family, comparison in _SOCKETS
    ]


def _with_subarchitectures(document: Mapping[str, Any], constant: str) -> list[str]:
    if document.get("architectures"):
        return list(document["architectures"])
    for entry in document.get("archMap") or ():
        if entry["architecture"] == constant:
            return [constant, *(entry.get("subArchitectures") or ())]
    return [constant] if constant else []


def _applies(rule: Mapping[str, Any], capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    excludes = rule.get("excludes") or {}
    if arch in (excludes.get("arches") or ()) or capabilities.intersection(excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]):
        return False
    includes = rule.get("includes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    return capabilities.issuperset(includes.get("caps") or ())


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    names = list(rule.get("names") or ())
    if rule.get("name"):
        names.append(rule["name"])
    converted: dict[str, Any] = {"names": names, "action": rule["action"]}
    # The specification allows an errno for these actions only.
    if rule["action"] in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        code = _errno(rule.get("errno"), rule.get("errnoRet"))
        if code is not None:
            converted["errnoRet"] = code
    if rule.get("args"):
        converted["args"] = [_argument(argument) for argument in rule["args"]]
    return converted


def _argument(argument: Mapping[str, Any]) -> dict[str, Any]:
    converted = {"index": argument["index"], "value": argument["value"], "op": argument["op"]}
    if argument.get("valueTwo"):
        converted["valueTwo"] = argument["valueTwo"]
    return converted


def _errno(name: str | None, number: int | None) -> int | None:
    """A name wins over a number, as containers-common has it; a number may stand as a name ("38")."""
    if not name:
        return number
    value: int | None = getattr(errno, name, None)
    return int(name) if value is None else value


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = (*text.split("."), "0")
    return int(major), int(minor)
