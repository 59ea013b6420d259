"""Resource limits of processes (setrlimit(2)) as the OCI runtime spec writes them, clamped to what the host allows."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.errors import InvalidArgument
from shoald.model.container import Ulimit

INFINITY = 2**64 - 1
DEFAULT_NOFILE = Ulimit("nofile", 1024, 524_288)
"""Soft and hard, Docker's: programs that need more raise their own soft limit."""

_NUMBERS = {
    "as": 9,
    "core": 4,
    "cpu": 0,
    "data": 2,
    "fsize": 1,
    "locks": 10,
    "memlock": 8,
    "msgqueue": 12,
    "nice": 13,
    "nofile": 7,
    "nproc": 6,
    "rss": 5,
    "rtprio": 14,
    "rttime": 15,
    "sigpending": 11,
    "stack": 3,
}
"""asm-generic/resource.h, for those that Python has no name for."""
NAMES: tuple[str, ...] = tuple(_NUMBERS)


def check_ulimits(ulimits: Sequence[Ulimit]) -> None:
    """Raises InvalidArgument (INVALID_ULIMIT)."""
    for each in ulimits:
        if each.name not in NAMES:
            raise InvalidArgument(
                f"invalid ulimit type: {each.name}", reason="INVALID_ULIMIT", hint=f"one of {', '.join(NAMES)}"
            )
        if min(each.soft, each.hard) < -1:
            raise InvalidArgument(
                f"invalid ulimit {each.name}={each.soft}:{each.hard}", reason="INVALID_ULIMIT", hint="-1: no limit"
            )
        if _number(each.soft) > _number(each.hard):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {each.soft} > {each.hard}",
                reason="INVALID_ULIMIT",
            )


def host_hard_limits() -> dict[str, int]:
    """The daemon's own hard limits, which only CAP_SYS_RESOURCE may raise (I/O: asks the kernel)."""
    found = {}
    for name, number in _NUMBERS.items():
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}", number))
        found[name] = _number(hard)
    return found


def rlimits(ulimits: Sequence[Ulimit], hard_limits: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """The `process.rlimits` list. `hard_limits` None: the host lets us raise them all."""
    asked = {DEFAULT_NOFILE.name: DEFAULT_NOFILE} | {each.name: each for each in ulimits}
    return [_rlimit(each, hard_limits) for each in asked.values()]


def clamped(ulimits: Sequence[Ulimit], hard_limits: Mapping[str, int] | None) -> list[str]:
    """Warnings about limits that are lower than asked for."""
    if hard_limits is None:
        return []
    return [
        f"ulimit {each.name}: this host allows no more than {hard_limits[each.name]}"
        for each in ulimits
        if _number(each.hard) > hard_limits.get(each.name, INFINITY)
    ]


def _rlimit(limit: Ulimit, hard_limits: Mapping[str, int] | None) -> dict[str, Any]:
    hard = _number(limit.hard)
    if hard_limits is not None:
        hard = min(hard, hard_limits.get(limit.name, INFINITY))
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": min(_number(limit.soft), hard), "hard": hard}


def _number(limit: int) -> int:
    return INFINITY if limit < 0 else limit
