"""Containers that enter the namespaces of others (`--network container:db`, `--pid`, `--ipc`).

Who joins another container lives in its user namespace too: the kernel lets nobody else in. Which one that is is
decided when the container is made; at each start the other one must be running.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.host.mounts import MountFlags, mount
from shoald.host.pid import process_alive
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState
from shoald.runtime.mounts import SHM_SIZE
from shoald.runtime.namespaces import SHAREABLE, Joined, joins, with_joins, without_user_namespace

SHM = "shm"
"""Name of a shareable /dev/shm among the mounts in a container's run directory."""


class Neighbours:
    """Looks others up in the records; keeps nothing."""

    def __init__(self, md: Metadata, run_dir: Path) -> None:
        self._md = md
        self._run_dir = run_dir

    def resolve(self, spec: ContainerSpec) -> ContainerSpec:
        """With ids instead of names, which others may take later. Raises NotFound, InvalidArgument
        (IPC_NOT_SHAREABLE, DIFFERENT_USER_NAMESPACES)."""
        found = {kind: self._md.containers.find(name) for kind, name in joins(spec).items()}
        if "ipc" in found and found["ipc"].spec.ipc_mode != SHAREABLE:
            raise InvalidArgument(
                f"container {found['ipc'].name} does not share its IPC namespace",
                reason="IPC_NOT_SHAREABLE",
                hint="run it with --ipc shareable",
            )
        if len({each.userns_base for each in found.values()}) > 1 and not without_user_namespace(spec):
            names = " and ".join(sorted({each.name for each in found.values()}))
            raise InvalidArgument(
                f"{names} have different user namespaces: nobody can join both",
                reason="DIFFERENT_USER_NAMESPACES",
                hint="let one of them join the other, then join that one",
            )
        return with_joins(spec, {kind: each.id for kind, each in found.items()})

    def userns_base(self, spec: ContainerSpec) -> int | None:
        """That of the containers that it joins; None when it joins none."""
        for name in joins(spec).values():
            return self._md.containers.find(name).userns_base
        return None

    def host_name(self, spec: ContainerSpec) -> str:
        """Who shares a network has the same name there; "" when it joins none."""
        name = joins(spec).get("network")
        return self._md.containers.find(name).hostname if name else ""

    def joined(self, container: Container) -> dict[str, Joined]:
        """The namespaces to enter, of containers that run. Raises FailedPrecondition (JOINED_NOT_RUNNING)."""
        return {kind: self._joined(container, kind, name) for kind, name in joins(container.spec).items()}

    def _joined(self, container: Container, kind: str, name: str) -> Joined:
        found = self._md.containers.get(name)
        if found is None:
            raise FailedPrecondition(
                f"the container whose {kind} namespace {container.name} joins is gone ({name[:12]})",
                reason="JOINED_NOT_RUNNING",
                hint="make the container anew",
            )
        running = found.state in (ContainerState.RUNNING, ContainerState.PAUSED)
        if not running or not process_alive(found.pid, found.pid_start_time):
            raise FailedPrecondition(
                f"{container.name} joins the {kind} namespace of {found.name}, which is not running",
                reason="JOINED_NOT_RUNNING",
                hint=f"start {found.name} first",
            )
        return Joined(found.id, found.pid, str(self.shm(found.id)) if kind == "ipc" else "")

    def still(self, joined: Mapping[str, Joined]) -> None:
        """That what was entered were their namespaces: a process that has ended may have lent its number to another.

        Raises FailedPrecondition (JOINED_NOT_RUNNING).
        """
        for each in joined.values():
            found = self._md.containers.get(each.container_id)
            if found is None or found.pid != each.pid or not process_alive(found.pid, found.pid_start_time):
                raise FailedPrecondition(
                    f"container {each.container_id[:12]} ended while it was being joined", reason="JOINED_NOT_RUNNING"
                )

    def shm(self, container_id: str) -> Path:
        """Where the /dev/shm of a shareable container is mounted on the host."""
        return self._run_dir / container_id / "mounts" / SHM

    def share_shm(self, container: Container) -> str:
        """Mount the /dev/shm of a container that shares it, below the directory of its mounts, which whoever calls
        unmounts; "" for one that does not."""
        if container.spec.ipc_mode != SHAREABLE:
            return ""
        path = self.shm(container.id)
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
        size, owner = container.spec.shm_size_bytes or SHM_SIZE, container.userns_base
        flags = MountFlags.NOSUID | MountFlags.NODEV | MountFlags.NOEXEC
        mount("shm", path, "tmpfs", flags, f"mode=1777,size={size},uid={owner},gid={owner}")
        return str(path)
