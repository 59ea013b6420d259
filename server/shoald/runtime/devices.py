"""Rules of the device cgroup: everything is denied but the nodes that every container has."""

from __future__ import annotations

from typing import Any

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


def device_rules() -> list[dict[str, Any]]:
    """The `linux.resources.devices` list: deny all, then allow; in this order."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for major, minor in _ALLOWED:
        rule: dict[str, Any] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    return rules
