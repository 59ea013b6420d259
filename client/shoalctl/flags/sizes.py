"""Sizes (`512m`), processors (`1.5`) and durations (`10`, `1m30s`) as docker's flags take them."""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException

from shoalctl.flags.fault import UsageFault

_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp])?(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_NANO = Decimal(10**9)


def parse_size(text: str) -> int:
    """Bytes: a number with an optional unit b, k, m, g, t or p (powers of 1024). Raises UsageFault."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageFault(f"invalid size {text!r}", hint="write a number with b, k, m or g, for example 512m")
    size = int(Decimal(found[1]) * 1024 ** _POWERS[(found[2] or "").lower()])
    if size >= 2**63:
        raise UsageFault(f"size {text!r} is too large")
    return size


def parse_cpus(text: str) -> int:
    """Billionths of a processor. Raises UsageFault."""
    try:
        nano = Decimal(text) * _NANO
    except DecimalException:
        nano = Decimal(-1)
    if not nano.is_finite() or not 0 <= nano < 2**63 or nano != int(nano):
        raise UsageFault(f"invalid number of processors {text!r}", hint="write a number such as 1.5")
    return int(nano)
