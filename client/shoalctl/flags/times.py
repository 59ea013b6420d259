"""`--since` and `--until`: a duration back from now, a Unix time, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from shoalctl.flags.fault import UsageFault

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_MOST = 2**63  # ns, as Go's
_PART = r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)"


def parse_duration(text: str) -> timedelta:
    """Go's notation (`1h30m`, `250ms`) with `d` for days, or a plain number of seconds. Raises UsageFault."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        nanoseconds = Decimal(text) * _UNITS["s"]
    elif re.fullmatch(f"(?:{_PART})+", text):
        nanoseconds = sum((Decimal(number) * _UNITS[unit] for number, unit in re.findall(_PART, text)), Decimal())
    else:
        raise UsageFault(f"invalid duration {text!r}", hint="write for example 90s, 10m or 1h30m")
    if nanoseconds >= _MOST:
        raise UsageFault(f"the duration {text!r} is too long: it must be less than 292 years")
    return timedelta(microseconds=float(nanoseconds / 1000))


def parse_time(text: str, now: datetime) -> datetime:
    """An aware time in UTC: `10m` (ago), `1700000000[.5]`, `2026-01-31`, `2026-01-31T10:00[:00][Z|+02:00]`.

    A date without a zone is in this machine's zone, as docker has it. Raises UsageFault.
    """
    if re.fullmatch(r"\d{1,11}(?:\.\d{1,9})?", text):
        return datetime.fromtimestamp(float(text), UTC)
    if re.fullmatch(f"(?:{_PART})+", text):
        return now.astimezone(UTC) - parse_duration(text)
    try:
        # The shift to UTC may leave the years 1 to 9999.
        return datetime.fromisoformat(_microseconds(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageFault(f"invalid time {text!r}", hint="write 10m, 2026-01-31T10:00:00Z or a Unix time") from None


def _microseconds(text: str) -> str:
    """Python's parser takes at most six decimals of a second; docker's output has nine."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)
