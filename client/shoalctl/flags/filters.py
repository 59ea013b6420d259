"""`-f key=value` of the listing commands."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from shoalctl.flags.fault import UsageFault


def parse_filters(entries: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """The values of each key, in order; every known key is there. Raises UsageFault for an unknown one."""
    found: dict[str, list[str]] = {key: [] for key in known}
    for entry in entries:
        key, equals, value = entry.partition("=")
        key = key.strip().lower()
        if not equals or not value:
            raise UsageFault(f"invalid filter {entry!r}", hint="write key=value")
        if key not in found:
            raise UsageFault(f"unknown filter {key!r}", hint=f"there are {', '.join(sorted(known))}")
        found[key].append(value.strip())
    return found
