"""Limits of a container as the OCI runtime spec writes them, and what this host can't enforce; pure.

The values are cgroup v1's on every host: crun and runc convert them for v2 (shares to weights, swap to swap alone).
What v2 does not have at all is left out here, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shoald.model.container import Resources
from shoald.runtime.devices import device_rules

CPU_PERIOD_US = 100_000
DEFAULT_PIDS_LIMIT = 4096
"""Processes of a container that asks for no limit of its own: a fork bomb must not take the host."""

LEAST_SHARES, MOST_SHARES = 2, 262_144
_THROTTLES = {
    "throttleReadBpsDevice": "device_read_bps",
    "throttleWriteBpsDevice": "device_write_bps",
    "throttleReadIOPSDevice": "device_read_iops",
    "throttleWriteIOPSDevice": "device_write_iops",
}


class HostLimits(Struct, frozen=True):
    """What the host lets us limit.

    `controllers`: names of the usable cgroup controllers ("memory", "cpu", "pids", "cpuset", "blkio" or "io"); `swap`:
    memory+swap can be limited; `hard_limits`: the daemon's own hard rlimits by name, which only CAP_SYS_RESOURCE may
    raise; None: may be raised.
    """

    controllers: frozenset[str] = frozenset({"memory", "cpu", "pids"})
    swap: bool = False
    hard_limits: Mapping[str, int] | None = None
    default_pids_limit: int = DEFAULT_PIDS_LIMIT
    unified: bool = False
    """cgroup v2 alone."""
    swappiness: bool = False
    oom_control: bool = False
    blkio_weight: bool = False
    """The I/O scheduler in use knows weights."""
    oom_score_floor: int | None = None
    """The lowest oom_score_adj that the daemon may set; None: any."""

    @property
    def block_io(self) -> bool:
        """Whether block devices can be limited."""
        return bool(self.controllers & {"blkio", "io"})


def resources(
    limits: Resources,
    host: HostLimits,
    *,
    devices: Sequence[Mapping[str, Any]] | None = None,
    numbers: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """The `linux.resources` object. A limit whose controller is missing is left out (see `unenforced`).

    `devices`: the rules of the device cgroup; `numbers`: (major, minor) of the paths in device limits.
    """
    result: dict[str, Any] = {"devices": list(device_rules() if devices is None else devices)}
    pids = limits.pids_limit or host.default_pids_limit
    groups = {
        "memory": _memory(limits, host) if "memory" in host.controllers else {},
        "cpu": _cpu(limits, host),
        "blockIO": _block_io(limits, host, numbers or {}) if host.block_io else {},
        "pids": {"limit": pids} if pids > 0 and "pids" in host.controllers else {},
    }
    return result | {name: group for name, group in groups.items() if group}


def _memory(limits: Resources, host: HostLimits) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if limits.memory_bytes > 0:
        memory["limit"] = limits.memory_bytes
        if host.swap:
            # Memory and swap together, as Docker: as much swap as memory unless told.
            memory["swap"] = limits.memory_swap_bytes or 2 * limits.memory_bytes
    if limits.memory_reservation_bytes > 0:
        memory["reservation"] = limits.memory_reservation_bytes
    if limits.memory_swappiness is not None and host.swappiness:
        memory["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable and host.oom_control:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(limits: Resources, host: HostLimits) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if "cpu" in host.controllers:
        if limits.nano_cpus > 0:
            # The kernel refuses a quota of less than 1 ms.
            cpu["quota"] = max(1000, limits.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
            cpu["period"] = CPU_PERIOD_US
        if limits.cpu_quota > 0:  # -1: none, which crun can not write
            cpu["quota"] = limits.cpu_quota
        if limits.cpu_period:
            cpu["period"] = limits.cpu_period
        if limits.cpu_shares:
            cpu["shares"] = min(max(limits.cpu_shares, LEAST_SHARES), MOST_SHARES)
    if "cpuset" in host.controllers:
        if limits.cpuset_cpus:
            cpu["cpus"] = limits.cpuset_cpus
        if limits.cpuset_mems:
            cpu["mems"] = limits.cpuset_mems
    return cpu


def _block_io(limits: Resources, host: HostLimits, numbers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if limits.blkio_weight and host.blkio_weight:
        block["weight"] = limits.blkio_weight
    for name, attribute in _THROTTLES.items():
        rates = [
            {"major": numbers[each.path][0], "minor": numbers[each.path][1], "rate": each.rate}
            for each in getattr(limits, attribute)
        ]
        if rates:
            block[name] = rates
    return block


def limited_devices(limits: Resources) -> list[str]:
    """The paths that device limits name, each once."""
    return list(dict.fromkeys(each.path for name in _THROTTLES.values() for each in getattr(limits, name)))


def unenforced(limits: Resources, host: HostLimits) -> list[str]:
    """Warnings about limits that were asked for and that this host can't enforce."""
    missing = [
        f"this host has no {name} cgroup controller: the {name} limit does not apply"
        for name, wanted in _asked(limits).items()
        if wanted and name not in host.controllers
    ]
    if limited_devices(limits) and not host.block_io:
        missing.append("this host has no io cgroup controller: the limits of block devices do not apply")
    with_memory = "memory" in host.controllers
    if limits.memory_swap_bytes and with_memory and not host.swap:
        missing.append("this host can't limit swap: memory is limited without swap")
    if limits.memory_swappiness is not None and not host.swappiness:
        missing.append("this host has no memory swappiness of a cgroup (cgroup v2 has none): it does not apply")
    if limits.oom_kill_disable and not host.oom_control:
        missing.append("this host can't switch off the OOM killer of a cgroup (cgroup v2 can't): it does not apply")
    if limits.oom_kill_disable and host.oom_control and not limits.memory_bytes:
        missing.append("the OOM killer is off and no memory limit is set: the host may run out of memory")
    if limits.blkio_weight and not host.blkio_weight:
        missing.append("no I/O scheduler of this host knows weights: the block I/O weight does not apply")
    return missing


def _asked(limits: Resources) -> dict[str, bool]:
    return {
        "memory": limits.memory_bytes > 0 or limits.memory_reservation_bytes > 0,
        "cpu": bool(limits.nano_cpus > 0 or limits.cpu_quota > 0 or limits.cpu_period or limits.cpu_shares),
        "cpuset": bool(limits.cpuset_cpus or limits.cpuset_mems),
        "pids": limits.pids_limit > 0,
    }
