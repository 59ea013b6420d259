"""Kernel parameters of a container: only such as belong to a namespace of its own, as Docker has it; pure."""

from __future__ import annotations

import re

from shoal.errors import InvalidArgument
from shoald.model.container import ContainerSpec
from shoald.runtime.namespaces import own

_IPC = frozenset(
    {
        *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"),
        *("kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"),
    }
)
_UTS = frozenset({"kernel.domainname"})
_NAME = re.compile(r"[a-zA-Z0-9_-]+([./][a-zA-Z0-9_-]+)+")
_NO_PRIVILEGED_PORTS = "net.ipv4.ip_unprivileged_port_start"
_PING = "net.ipv4.ping_group_range"
MAX_GID = 2_147_483_647


def check_sysctls(spec: ContainerSpec) -> None:
    """Raises InvalidArgument (INVALID_SYSCTL) for a parameter of the host, or of a namespace that is not its own."""
    for name, value in spec.sysctls.items():
        if not _NAME.fullmatch(name) or not value or "\n" in value:
            raise InvalidArgument(f"invalid sysctl {name}={value!r}", reason="INVALID_SYSCTL", hint="write NAME=VALUE")
        kind = _namespace_of(normal_name(name))
        if kind is None:
            raise InvalidArgument(
                f"sysctl {name!r} is not in a namespace of the container",
                reason="INVALID_SYSCTL",
                hint="net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm* are; set others on the host",
            )
        if not own(spec, kind):
            raise InvalidArgument(
                f"sysctl {name!r} can't be set: the container has no {kind} namespace of its own",
                reason="INVALID_SYSCTL",
                hint=f"leave out --{kind}, or set it where that namespace belongs",
            )


def normal_name(name: str) -> str:
    """With dots between its parts. sysctl(8): whichever of "." and "/" comes first separates them."""
    first = next((c for c in name if c in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def sysctls(spec: ContainerSpec, *, userns_size: int, user_namespace: bool) -> dict[str, str]:
    """The `linux.sysctl` object: Docker's defaults and what was asked for."""
    found: dict[str, str] = {}
    if own(spec, "network"):
        # Group ids beyond the mapping do not exist in the namespace, and the kernel refuses them.
        highest = userns_size - 1 if user_namespace else MAX_GID
        found = {_NO_PRIVILEGED_PORTS: "0", _PING: f"0 {highest}"}
    if spec.domainname and own(spec, "uts") and not user_namespace:
        # runc knows of no domain name before 1.2; only the host's root may write this one.
        found["kernel.domainname"] = spec.domainname
    return found | {normal_name(name): value for name, value in spec.sysctls.items()}


def _namespace_of(name: str) -> str | None:
    if name.startswith("net."):
        return "network"
    if name in _IPC or name.startswith("fs.mqueue."):
        return "ipc"
    return "uts" if name in _UTS else None
