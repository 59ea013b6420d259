"""Parts of /proc and /sys that no container may read or write; Docker's lists."""

from __future__ import annotations

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

# Never /sys/fs/cgroup: crun binds it over itself before it makes it read-only, and in that copy the controllers of
# cgroup v1, which it had mounted read-only, are writable. A container could lift its own limits.
READONLY_PATHS: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


def thermal_paths(cpus: Path = Path("/sys/devices/system/cpu")) -> tuple[str, ...]:
    """Thermal counters of this host's processors, masked too: they tell what neighbours do (I/O: call it once)."""
    return tuple(sorted(str(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle")))
