"""`--log-driver` and `--log-opt`. The host knows the drivers and their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shoalctl.flags.empty import EMPTY
from shoalctl.flags.fault import UsageFault

DRIVERS = ("local", "json-file", "journald", "none")


class LogFlags(NamedTuple):
    """Where output goes; "" for the host's default."""

    driver: str = ""
    options: Mapping[str, str] = EMPTY


def parse_log(driver: str, options: Sequence[str]) -> LogFlags:
    """Raises UsageFault."""
    if driver and driver not in DRIVERS:
        raise UsageFault(
            f"--log-driver {driver!r} is unknown",
            hint="choose local (or json-file, the same), journald or none; others belong behind journald",
        )
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise UsageFault(f"--log-opt {option!r} is not KEY=VALUE")
        parsed[key] = value
    return LogFlags(driver, parsed)
