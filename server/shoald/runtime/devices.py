"""Devices of a container: the rules of the device cgroup, and the nodes; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from shoal.errors import InvalidArgument
from shoald.runtime.hooks import Hook

_ALLOWED: tuple[tuple[int, int | None], ...] = (
    (1, 3),  # /dev/null
    (1, 5),  # /dev/zero
    (1, 7),  # /dev/full
    (1, 8),  # /dev/random
    (1, 9),  # /dev/urandom
    (5, 0),  # /dev/tty
    (5, 1),  # /dev/console
    (5, 2),  # /dev/ptmx
    (136, None),  # /dev/pts/*
)
OF_EVERY_CONTAINER = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")
)
"""Nodes that the OCI runtime makes by itself."""

_RULE = re.compile(r"([acb]) (\d{1,10}|\*):(\d{1,10}|\*) ([rwm]{1,3})")
_PERMISSIONS = re.compile(r"[rwm]{1,3}")


class DeviceNode(Struct, frozen=True):
    """A device that the container gets. `path`: in the container; `kind` "c" or "b"; ids as on the host."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"


class Equipment(Struct, frozen=True):
    """What a container gets of its host besides its limits, looked up there."""

    nodes: tuple[DeviceNode, ...] = ()
    env: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str, str, tuple[str, ...]], ...] = ()
    """(path in the container, path on the host, type, options)."""
    groups: tuple[int, ...] = ()
    hooks: Mapping[str, Sequence[Hook]] = field(default_factory=dict)
    """Kind (see `shoald.runtime.hooks.HOOKS`) -> programs, in their order."""
    numbers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """(major, minor) of the block devices that its limits name."""


def device_rules(
    nodes: Sequence[DeviceNode] = (), extra: Sequence[str] = (), *, privileged: bool = False
) -> list[dict[str, Any]]:
    """The `linux.resources.devices` list: deny all, then allow; in this order. `extra`: see `parse_rule`."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for major, minor in _ALLOWED:
        rule: dict[str, Any] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    for node in nodes:
        numbers = {"major": node.major, "minor": node.minor}
        rules.append({"allow": True, "type": node.kind, **numbers, "access": node.permissions})
    return [*rules, *map(parse_rule, extra)]


def parse_rule(text: str) -> dict[str, Any]:
    """ "c 42:* rwm" as in cgroup v1's devices.allow. Raises InvalidArgument (INVALID_DEVICE_RULE)."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"invalid device cgroup format {text!r}", reason="INVALID_DEVICE_RULE", hint='for example "c 189:* rmw"'
        )
    rule: dict[str, Any] = {"allow": True, "type": found[1], "access": found[4]}
    for name, number in (("major", found[2]), ("minor", found[3])):
        if number != "*":
            rule[name] = int(number)
    return rule


def check_permissions(permissions: str) -> None:
    """Raises InvalidArgument (INVALID_DEVICE)."""
    if not _PERMISSIONS.fullmatch(permissions):
        raise InvalidArgument(f"invalid device permissions {permissions!r}", reason="INVALID_DEVICE", hint="of r, w, m")


def device_list(nodes: Sequence[DeviceNode]) -> list[dict[str, Any]]:
    """The `linux.devices` list (config-linux.md "Devices")."""
    return [
        {
            "path": node.path,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "fileMode": node.mode,
            "uid": node.uid,
            "gid": node.gid,
        }
        for node in nodes
    ]
