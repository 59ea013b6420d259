"""Limits of a running container as control files, of cgroup version 1 or 2, as crun and runc write them; pure."""

from __future__ import annotations

from shoald.host.limits import LimitFile
from shoald.model.container import Resources
from shoald.runtime.resources import CPU_PERIOD_US, LEAST_SHARES, MOST_SHARES, HostLimits

DEFAULT_SHARES = 1024
_MEMORY = ("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes")
_CPU = ("nano_cpus", "cpu_period", "cpu_quota")


def limit_files(before: Resources, after: Resources, host: HostLimits) -> list[LimitFile]:
    """What to write so that `after` holds instead of `before`."""

    def changes(*names: str) -> bool:
        return any(getattr(before, name) != getattr(after, name) for name in names)

    found: list[LimitFile] = []
    if changes(*_MEMORY):
        found += _memory(after, host)
    if changes(*_CPU):
        found += _quota(after, host)
    if changes("cpu_shares"):
        found.append(_shares(after, host))
    if changes("cpuset_cpus"):
        found.append(LimitFile("cpuset", "cpuset.cpus", after.cpuset_cpus))
    if changes("cpuset_mems"):
        found.append(LimitFile("cpuset", "cpuset.mems", after.cpuset_mems))
    if changes("pids_limit"):
        limit = after.pids_limit or host.default_pids_limit
        found.append(LimitFile("pids", "pids.max", str(limit) if limit > 0 else "max"))
    if changes("blkio_weight") and host.blkio_weight:
        found += _weight(after, host)
    return found


def _memory(limits: Resources, host: HostLimits) -> list[LimitFile]:
    none = "max" if host.unified else "-1"
    limit = str(limits.memory_bytes) if limits.memory_bytes else none
    swap = none
    if limits.memory_bytes and limits.memory_swap_bytes >= 0:
        together = limits.memory_swap_bytes or 2 * limits.memory_bytes
        swap = str(together - limits.memory_bytes if host.unified else together)
    soft = limits.memory_reservation_bytes
    if host.unified:
        files = [LimitFile("memory", "memory.max", limit), LimitFile("memory", "memory.low", str(soft))]
        return files + ([LimitFile("memory", "memory.swap.max", swap)] if host.swap else [])
    files = [LimitFile("memory", "memory.limit_in_bytes", limit)]
    if host.swap:
        files.append(LimitFile("memory", "memory.memsw.limit_in_bytes", swap))
    return [*files, LimitFile("memory", "memory.soft_limit_in_bytes", str(soft) if soft else none)]


def _quota(limits: Resources, host: HostLimits) -> list[LimitFile]:
    period = limits.cpu_period or CPU_PERIOD_US
    quota = limits.cpu_quota
    if limits.nano_cpus:
        period, quota = CPU_PERIOD_US, max(1000, limits.nano_cpus * CPU_PERIOD_US // 1_000_000_000)
    if host.unified:
        return [LimitFile("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}")]
    return [
        LimitFile("cpu", "cpu.cfs_period_us", str(period)),
        LimitFile("cpu", "cpu.cfs_quota_us", str(quota if quota > 0 else -1)),
    ]


def _shares(limits: Resources, host: HostLimits) -> LimitFile:
    shares = min(max(limits.cpu_shares or DEFAULT_SHARES, LEAST_SHARES), MOST_SHARES)
    if host.unified:
        weight = 1 + (shares - LEAST_SHARES) * 9999 // (MOST_SHARES - LEAST_SHARES)
        # Without a wish the kernel's own default holds.
        return LimitFile("cpu", "cpu.weight", str(weight if limits.cpu_shares else 100))
    return LimitFile("cpu", "cpu.shares", str(shares))


def _weight(limits: Resources, host: HostLimits) -> list[LimitFile]:
    """For every scheduler that may be in use."""
    weight = limits.blkio_weight
    if not host.unified:
        return [LimitFile("blkio", name, str(weight or 500)) for name in ("blkio.weight", "blkio.bfq.weight")]
    scaled = 1 + (weight - 10) * 9999 // 990 if weight else 100
    return [LimitFile("io", "io.bfq.weight", str(weight or 100)), LimitFile("io", "io.weight", str(scaled))]
