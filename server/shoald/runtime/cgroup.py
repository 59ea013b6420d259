"""The little that the runtime reads of a container's cgroup: who is in it, and whether the kernel killed for memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_V1 = ("memory", "pids", "devices", "freezer", "systemd")


def _directories(cgroup_path: str) -> list[Path]:
    """The cgroup's directories: one on v2, several on v1."""
    relative = cgroup_path.lstrip("/")
    if not relative:
        return []
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT / relative]
    return [_ROOT / controller / relative for controller in _V1]


def processes(cgroup_path: str) -> set[int]:
    """Pids in the cgroup, as the host sees them."""
    found: set[int] = set()
    for directory in _directories(cgroup_path):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
    return found


def oom_killed(cgroup_path: str) -> bool:
    """True when the kernel killed a process of the cgroup for lack of memory."""
    for directory in _directories(cgroup_path):
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in (directory / name).read_text().splitlines():
                    key, _, count = line.partition(" ")
                    if key == "oom_kill" and int(count) > 0:
                        return True
    return False


def remove(cgroup_path: str) -> None:
    """Remove the cgroup's empty directories in every hierarchy; what is missing or in use stays as it is."""
    relative = cgroup_path.lstrip("/")
    if not relative:
        return
    roots = [_ROOT]
    if not (_ROOT / "cgroup.controllers").exists():
        with contextlib.suppress(OSError):
            roots = [entry for entry in _ROOT.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for root in roots:
        directory = root / relative
        if directory.is_dir():
            for path, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
