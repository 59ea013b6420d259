"""Capabilities of a container's first process, as Docker grants them."""

from __future__ import annotations

from typing import Any

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


def capability_sets(uid: int) -> dict[str, Any]:
    """The `process.capabilities` object (OCI runtime spec, config.md "Linux Process").

    Nothing is ever ambient or inheritable (CVE-2022-24769). A process that does not run as root gets the bounding set
    alone, as execve would leave it.
    """
    held = list(DEFAULT_CAPABILITIES)
    if uid != 0:
        return {"bounding": held, "effective": [], "permitted": [], "inheritable": [], "ambient": []}
    return {"bounding": held, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


ALL_CAPABILITIES: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
        " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT"
        " SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
        " MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)
"""By number, as in linux/capability.h."""
