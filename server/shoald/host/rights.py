"""What this process may do and give: capabilities, processors, AppArmor profiles. Asked of the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SYS_RESOURCE = 24
_STATUS = Path("/proc/self/status")
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_PROFILES = Path("/sys/kernel/security/apparmor/profiles")


def may(capability: int) -> bool:
    """Whether this process has a capability, by its number in linux/capability.h."""
    return bool(_mask("CapEff") >> capability & 1)


def known_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """Of `names`, in the order of linux/capability.h, those that the kernel knows."""
    return tuple(names[: int(_LAST_CAP.read_text()) + 1])


def givable_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """Of `names`, in the order of linux/capability.h, those in this process's bounding set: all that it can pass on
    without a user namespace."""
    mask = _mask("CapBnd")
    return tuple(name for number, name in enumerate(names) if mask >> number & 1)


def oom_score() -> int:
    """This process's own oom_score_adj: without CAP_SYS_RESOURCE nothing lower can be set."""
    return int(Path("/proc/self/oom_score_adj").read_text())


def online(what: str) -> str:
    """The list of processors ("cpu") or memory nodes ("node") that are online, as "0-3"; "" when the host does not
    tell."""
    try:
        return Path(f"/sys/devices/system/{what}/online").read_text().strip()
    except FileNotFoundError:
        return ""


def apparmor_profiles() -> frozenset[str] | None:
    """The loaded profiles; None on a host without AppArmor."""
    try:
        if _APPARMOR.read_text().strip() != "Y":
            return None
        return frozenset(line.rpartition(" (")[0] for line in _PROFILES.read_text().splitlines())
    except FileNotFoundError:
        return None


def _mask(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1], 16)
    return 0
