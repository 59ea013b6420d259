"""What a cgroup uses, the same figures from version 1 and version 2."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from shoald.host.cgroups import Cgroups, Mode

_NO_LIMIT_V1 = 1 << 62
"""Version 1 reports "no limit" as about 2**63 rounded to pages."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Figures of one cgroup and all below it; None: the host has no controller for it, or there is no limit.

    Memory in bytes (`memory` without the file cache that can be dropped at once, as Docker counts), CPU time in
    microseconds since the start, `oom_kills` the number of processes killed for memory, block I/O in bytes.
    """

    memory: int | None = None
    memory_limit: int | None = None
    memory_peak: int | None = None
    oom_kills: int | None = None
    cpu_us: int | None = None
    cpu_user_us: int | None = None
    cpu_system_us: int | None = None
    throttled_us: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None


def read_usage(cgroups: Cgroups, cgroup: str) -> Usage:
    """The figures of a cgroup; all None when it is gone. Blocking, about 0.2 ms."""
    if cgroups.mode is Mode.UNIFIED:
        directory = cgroups.paths(cgroup)[0]
        return usage_v2(directory)
    return _usage_v1(cgroups, cgroup)


def usage_v2(directory: Path) -> Usage:
    """The figures of a version 2 cgroup (kernel documentation, cgroup-v2)."""
    stat, cpu = _table(directory / "memory.stat"), _table(directory / "cpu.stat")
    events = _table(directory / "memory.events")
    io = _read(directory / "io.stat")
    return Usage(
        memory=_minus(_number(directory / "memory.current"), stat.get("inactive_file")),
        memory_limit=_number(directory / "memory.max"),
        memory_peak=_number(directory / "memory.peak"),
        oom_kills=events.get("oom_kill"),
        cpu_us=cpu.get("usage_usec"),
        cpu_user_us=cpu.get("user_usec"),
        cpu_system_us=cpu.get("system_usec"),
        throttled_us=cpu.get("throttled_usec"),
        pids=_number(directory / "pids.current"),
        pids_limit=_number(directory / "pids.max"),
        read_bytes=None if io is None else _sum_pairs(io, "rbytes"),
        write_bytes=None if io is None else _sum_pairs(io, "wbytes"),
    )


def _usage_v1(cgroups: Cgroups, cgroup: str) -> Usage:
    nowhere = Path("/nonexistent")
    memory = cgroups.path(cgroup, "memory") or nowhere
    accounting = cgroups.path(cgroup, "cpuacct") or nowhere
    cpu = cgroups.path(cgroup, "cpu") or nowhere
    pids = cgroups.path(cgroup, "pids") or nowhere
    blkio = cgroups.path(cgroup, "blkio") or nowhere
    limit = _number(memory / "memory.limit_in_bytes")
    ticks = _table(accounting / "cpuacct.stat")
    throttled = _table(cpu / "cpu.stat").get("throttled_time")
    cpu_ns = _number(accounting / "cpuacct.usage")
    io = _read(blkio / "blkio.throttle.io_service_bytes_recursive")
    return Usage(
        memory=_minus(
            _number(memory / "memory.usage_in_bytes"), _table(memory / "memory.stat").get("total_inactive_file")
        ),
        memory_limit=None if limit is None or limit > _NO_LIMIT_V1 else limit,
        memory_peak=_number(memory / "memory.max_usage_in_bytes"),
        oom_kills=_table(memory / "memory.oom_control").get("oom_kill"),
        cpu_us=None if cpu_ns is None else cpu_ns // 1000,
        cpu_user_us=_microseconds(ticks.get("user")),
        cpu_system_us=_microseconds(ticks.get("system")),
        throttled_us=None if throttled is None else throttled // 1000,
        pids=_number(pids / "pids.current"),
        pids_limit=_number(pids / "pids.max"),
        read_bytes=None if io is None else _sum_operation(io, "Read"),
        write_bytes=None if io is None else _sum_operation(io, "Write"),
    )


def cpu_time_us(cgroups: Cgroups, cgroup: str) -> int | None:
    """Only `Usage.cpu_us`: one small file."""
    if cgroups.mode is Mode.UNIFIED:
        return _table(cgroups.paths(cgroup)[0] / "cpu.stat").get("usage_usec")
    directory = cgroups.path(cgroup, "cpuacct")
    used = None if directory is None else _number(directory / "cpuacct.usage")
    return None if used is None else used // 1000


def oom_kills(cgroups: Cgroups, cgroup: str) -> int | None:
    """How many processes of the cgroup were killed for want of memory; None when it is gone or not counted."""
    if cgroups.mode is Mode.UNIFIED:
        return _table(cgroups.paths(cgroup)[0] / "memory.events").get("oom_kill")
    directory = cgroups.path(cgroup, "memory")
    return None if directory is None else _table(directory / "memory.oom_control").get("oom_kill")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError as error:
        # ENODEV: the cgroup was removed while its file was open.
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTDIR):
            return None
        raise


def _number(path: Path) -> int | None:
    text = _read(path)
    return None if text is None or not text.strip().isdigit() else int(text)


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in (_read(path) or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _minus(total: int | None, part: int | None) -> int | None:
    return None if total is None else max(0, total - (part or 0))


def _microseconds(ticks: int | None) -> int | None:
    return None if ticks is None else ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def _sum_pairs(text: str, key: str) -> int:
    """io.stat: "8:0 rbytes=1 wbytes=2 ..." a device."""
    pairs = (pair.partition("=") for pair in text.split())
    return sum(int(value) for name, _, value in pairs if name == key and value.isdigit())


def _sum_operation(text: str, operation: str) -> int:
    """blkio.*: "8:0 Read 1" a device and operation."""
    rows = (line.split() for line in text.splitlines())
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == operation)
