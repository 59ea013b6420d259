"""Capabilities of a container's first process, as Docker grants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.errors import InvalidArgument

DEFAULT_CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""Docker's fourteen."""

_BY_NUMBER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES: tuple[str, ...] = tuple(f"CAP_{name}" for name in _BY_NUMBER.split())
"""By number, as in linux/capability.h."""

ALL = "ALL"


def capability_sets(uid: int, bounding: Sequence[str] = DEFAULT_CAPABILITIES) -> dict[str, Any]:
    """The `process.capabilities` object (OCI runtime spec, config.md "Linux Process").

    Nothing is ever ambient or inheritable (CVE-2022-24769). A process that does not run as root gets the bounding set
    alone, as execve would leave it.
    """
    held = list(bounding)
    if uid != 0:
        return {"bounding": held, "effective": [], "permitted": [], "inheritable": [], "ambient": []}
    return {"bounding": held, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


def capability_name(text: str) -> str:
    """ "net_admin", "CAP_NET_ADMIN" -> "CAP_NET_ADMIN"; "all" -> "ALL". Raises InvalidArgument (INVALID_CAPABILITY)."""
    name = text.upper()
    if name in (ALL, f"CAP_{ALL}"):
        return ALL
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in ALL_CAPABILITIES:
        raise InvalidArgument(
            f"unknown capability: {text!r}",
            reason="INVALID_CAPABILITY",
            hint="a name of capabilities(7), with or without CAP_, or ALL",
        )
    return name


def bounding_set(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool = False, known: Sequence[str] = ALL_CAPABILITIES
) -> tuple[str, ...]:
    """What a container may hold at most, by Docker's rules: ALL first, then names; what is added is not dropped.

    `known`: what ALL stands for on this host. Raises InvalidArgument (INVALID_CAPABILITY).
    """
    added, dropped = {capability_name(each) for each in add}, {capability_name(each) for each in drop}
    if privileged:
        return tuple(known)
    if ALL in added:
        # Docker: with ALL added only what is dropped by name goes away.
        return tuple(name for name in known if name not in dropped)
    base = () if ALL in dropped else tuple(name for name in DEFAULT_CAPABILITIES if name not in dropped)
    return (*base, *(name for name in ALL_CAPABILITIES if name in added and name not in base))


def beyond_default(add: Sequence[str]) -> tuple[str, ...]:
    """Of the capabilities to add those that Docker's default set does not have. Raises InvalidArgument."""
    return tuple(name for name in map(capability_name, add) if name not in DEFAULT_CAPABILITIES)
