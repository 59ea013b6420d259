"""The freezer of control groups, version 1 (freezer controller) and version 2 (cgroup.freeze)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from shoald.host.cgroups import Cgroups


def is_frozen(cgroups: Cgroups, cgroup: str) -> bool:
    """Whether its processes are kept still; False when it is gone."""
    for directory in cgroups.paths(cgroup):
        if _text(directory / "freezer.state") in ("FROZEN", "FREEZING"):
            return True
        if _text(directory / "cgroup.freeze") == "1":
            return True
    return False


def thaw(cgroups: Cgroups, cgroup: str) -> None:
    """Let its processes go on. Idempotent. On version 1 not even SIGKILL ends a process that is frozen."""
    for directory in cgroups.paths(cgroup):
        for name, state in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            path = directory / name
            with contextlib.suppress(OSError):
                if path.exists():
                    path.write_text(state)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
