"""Limits of a container as the OCI runtime spec writes them, and what this host can't enforce."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from shoald.model.container import Resources
from shoald.runtime.devices import device_rules

CPU_PERIOD_US = 100_000
DEFAULT_PIDS_LIMIT = 4096
"""Processes of a container that asks for no limit of its own: a fork bomb must not take the host."""

DEFAULT_NOFILE = (1024, 524_288)
"""Soft and hard RLIMIT_NOFILE, Docker's: programs that need more raise their own soft limit."""


class HostLimits(Struct, frozen=True):
    """What the host lets us limit.

    `controllers`: names of the usable cgroup controllers ("memory", "cpu", "pids"); `swap`: memory+swap can be limited;
    `nofile_hard`: the daemon's own hard RLIMIT_NOFILE, which only CAP_SYS_RESOURCE may raise; None: may be raised.
    """

    controllers: frozenset[str] = frozenset({"memory", "cpu", "pids"})
    swap: bool = False
    nofile_hard: int | None = None
    default_pids_limit: int = DEFAULT_PIDS_LIMIT


def resources(limits: Resources, host: HostLimits) -> dict[str, Any]:
    """The `linux.resources` object. A limit whose controller is missing is left out (see `unenforced`)."""
    result: dict[str, Any] = {"devices": device_rules()}
    if limits.memory_bytes > 0 and "memory" in host.controllers:
        memory: dict[str, Any] = {"limit": limits.memory_bytes}
        if host.swap:
            # Memory and swap together, as Docker: as much swap as memory.
            memory["swap"] = 2 * limits.memory_bytes
        result["memory"] = memory
    if limits.nano_cpus > 0 and "cpu" in host.controllers:
        # The kernel refuses a quota of less than 1 ms.
        quota = max(1000, limits.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
        result["cpu"] = {"quota": quota, "period": CPU_PERIOD_US}
    pids = limits.pids_limit or host.default_pids_limit
    if pids > 0 and "pids" in host.controllers:
        result["pids"] = {"limit": pids}
    return result


def unenforced(limits: Resources, host: HostLimits) -> list[str]:
    """Warnings about limits that were asked for and that this host can't enforce."""
    asked = {"memory": limits.memory_bytes > 0, "cpu": limits.nano_cpus > 0, "pids": limits.pids_limit > 0}
    return [
        f"this host has no {name} cgroup controller: the {name} limit does not apply"
        for name, wanted in asked.items()
        if wanted and name not in host.controllers
    ]


def rlimits(host: HostLimits) -> list[dict[str, Any]]:
    """The `process.rlimits` list, clamped to what the daemon itself may have."""
    soft, hard = DEFAULT_NOFILE
    if host.nofile_hard is not None:
        hard = min(hard, host.nofile_hard)
    return [{"type": "RLIMIT_NOFILE", "soft": min(soft, hard), "hard": hard}]
