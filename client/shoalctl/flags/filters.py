"""`-f key=value` of the listing commands."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from shoalctl.flags.fault import UsageFault

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


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


def boolean_filter(wanted: Mapping[str, Sequence[str]], key: str) -> bool | None:
    """The value of a filter that is true or false; None where it is not given. Raises UsageFault."""
    values = {_BOOLEANS.get(text) for text in wanted[key]}
    if None in values or len(values) > 1:
        raise UsageFault(f"the filter {key} is true or false", hint=f"write {key}=true or {key}=false")
    return values.pop() if values else None
