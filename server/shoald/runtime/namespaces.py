"""Which namespaces a container has of its own, which it shares with the host or with another container; pure.

The words are Docker's: "" or "private", "host", "container:<name>", and for IPC "shareable".
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from shoal.errors import InvalidArgument
from shoald.model.container import ContainerSpec

HOST, PRIVATE, SHAREABLE = "host", "private", "shareable"
JOIN = "container:"

_MODES: Mapping[str, tuple[str, ...]] = {
    "pid": ("", PRIVATE, HOST),
    "ipc": ("", PRIVATE, SHAREABLE, HOST),
    "uts": ("", PRIVATE, HOST),
    "cgroup": ("", PRIVATE, HOST),
}
_JOINABLE = ("network", "pid", "ipc")
_FIELDS = {"network": "network", "pid": "pid_mode", "ipc": "ipc_mode"}
_LINKS = {"network": "net", "cgroup": "cgroup", "pid": "pid", "ipc": "ipc", "uts": "uts", "user": "user"}


class Joined(Struct, frozen=True):
    """A running container whose namespaces another one enters. `shm`: the host path of its /dev/shm, "" without one
    to share."""

    container_id: str
    pid: int
    shm: str = ""


def modes(spec: ContainerSpec) -> dict[str, str]:
    """Namespace (as the OCI runtime spec calls it) -> mode."""
    return {
        "network": spec.network if spec.network == HOST or spec.network.startswith(JOIN) else PRIVATE,
        "pid": spec.pid_mode,
        "ipc": spec.ipc_mode,
        "uts": spec.uts_mode,
        "cgroup": spec.cgroupns_mode,
    }


def joins(spec: ContainerSpec) -> dict[str, str]:
    """Namespace -> name or id of the container whose it is."""
    return {kind: mode.removeprefix(JOIN) for kind, mode in modes(spec).items() if mode.startswith(JOIN)}


def with_joins(spec: ContainerSpec, ids: Mapping[str, str]) -> ContainerSpec:
    """The same with these containers (by namespace) joined."""
    fields = {_FIELDS[kind]: JOIN + container_id for kind, container_id in ids.items()}
    return replace(spec, **fields) if fields else spec


def hosts(spec: ContainerSpec, kind: str) -> bool:
    """Whether it has the host's namespace of this kind."""
    return modes(spec)[kind] == HOST


def own(spec: ContainerSpec, kind: str) -> bool:
    """Whether it has a namespace of this kind of its own."""
    mode = modes(spec)[kind]
    return mode != HOST and not mode.startswith(JOIN)


def bridged(spec: ContainerSpec) -> bool:
    """Whether it is in bridge networks: not in the host's network, in none, or in that of another container."""
    return own(spec, "network") and spec.network != "none"


def without_user_namespace(spec: ContainerSpec) -> bool:
    """Asked for the host's user namespace, or for what needs it: a privileged container, or the host's processes, which
    a /proc of another user namespace does not show."""
    return spec.userns == HOST or spec.privileged or spec.pid_mode == HOST


def check_modes(spec: ContainerSpec) -> None:
    """Raises InvalidArgument (INVALID_NAMESPACE_MODE)."""
    for kind, allowed in _MODES.items():
        mode = modes(spec)[kind]
        if mode.startswith(JOIN) and kind in _JOINABLE and mode != JOIN:
            continue
        if mode not in allowed:
            choices = [*filter(None, allowed), *(["container:NAME"] if kind in _JOINABLE else [])]
            raise InvalidArgument(
                f"invalid {kind} mode {mode!r}", reason="INVALID_NAMESPACE_MODE", hint=f"choose {', '.join(choices)}"
            )


def namespaces(spec: ContainerSpec, joined: Mapping[str, Joined], *, user_namespace: bool) -> list[dict[str, str]]:
    """The `linux.namespaces` list (config-linux.md). What joins a container enters its user namespace too: the kernel
    lets nobody else into the others."""
    listed: list[dict[str, str]] = []
    for kind in ("pid", "mount", "ipc", "uts", "cgroup", "network"):
        if kind in joined:
            listed.append(_entry(kind, joined[kind]))
        elif kind == "mount" or own(spec, kind):
            listed.append({"type": kind})
    if user_namespace:
        host = next(iter(joined.values()), None)
        listed.append(_entry("user", host) if host is not None else {"type": "user"})
    return listed


def _entry(kind: str, joined: Joined) -> dict[str, str]:
    return {"type": kind, "path": f"/proc/{joined.pid}/ns/{_LINKS[kind]}"}
