"""Parts of /proc and /sys that no container may read or write; Docker's lists."""

from __future__ import annotations

import contextlib
from pathlib import Path

MASKED_PATHS: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    # crun mounts a writable tmpfs here on cgroup v1, whatever the mount's options say; see also `cgroup_paths`.
    "/sys/fs/cgroup",
    "/proc/sysrq-trigger",
)


def thermal_paths(cpus: Path = Path("/sys/devices/system/cpu")) -> tuple[str, ...]:
    """Thermal counters of this host's processors, masked too: they tell what neighbours do (I/O: call it once)."""
    return tuple(sorted(str(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle")))


def cgroup_paths(hierarchies: Path = Path("/sys/fs/cgroup")) -> tuple[str, ...]:
    """Where a container of this host sees its cgroup v1 controllers (I/O: call it once); none on cgroup v2.

    They want naming one by one: crun makes them read-only after it has bound /sys/fs/cgroup over itself, and what the
    container then sees is the copy, in which they are writable. Its root could lift its own limits.
    """
    if (hierarchies / "cgroup.controllers").exists():
        return ()
    with contextlib.suppress(OSError):
        return tuple(sorted(str(path) for path in hierarchies.iterdir() if path.is_dir() and not path.is_symlink()))
    return ()
