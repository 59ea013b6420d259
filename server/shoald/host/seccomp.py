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


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile file that was read, or why there is none: `document` None and `warning` for people (see the doctor)."""

    document: Mapping[str, Any] | None
    warning: str = ""


def load_profile(path: Path = DEFAULT_PROFILE) -> Profile:
    """Read a profile file. Never raises: what is wrong is in `warning`, and containers then run without a filter."""
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
