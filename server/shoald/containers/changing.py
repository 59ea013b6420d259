"""Rename and update: changes of a container that stays."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.containers.lifecycle import ALIVE, Lifecycle
from shoald.containers.limits import check_limits
from shoald.containers.plan import check_name
from shoald.containers.transitions import wants_restart
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.change import ContainerChange
from shoald.model.container import (
    Container,
    ContainerSpec,
    ContainerState,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from shoald.runtime.limitfiles import limit_files
from shoald.runtime.ports import ContainerRuntime
from shoald.runtime.resources import HostLimits

GONE = (ContainerState.REMOVING, ContainerState.DEAD)
_LIMITS = (
    "memory_bytes", "memory_swap_bytes", "memory_reservation_bytes", "nano_cpus", "cpu_shares", "cpu_period",
    "cpu_quota", "cpuset_cpus", "cpuset_mems", "pids_limit", "blkio_weight",
)  # fmt: skip
_MINUS_ONE_MEANS_NONE = ("memory_swap_bytes", "pids_limit", "cpu_quota")
"""Where -1 itself stands for "no limit" in a request."""


class Changing:
    """Changes what a container is called and what it may use. All of a change or nothing."""

    def __init__(
        self,
        md: Metadata,
        life: Lifecycle,
        runtime: ContainerRuntime,
        admit: Callable[[ContainerSpec], None],
        limits: HostLimits,
    ) -> None:
        """`admit` refuses what this host can't do."""
        self._md = md
        self._life = life
        self._runtime = runtime
        self._admit = admit
        self._limits = limits

    async def rename(self, container_id: str, name: str) -> None:
        """Raises InvalidArgument (INVALID_NAME), AlreadyExists (NAME_IN_USE), FailedPrecondition (CONTAINER_BUSY)."""
        check_name(name)
        async with self._life.locks.get(container_id):
            container = self._present(container_id)
            if container.name == name:
                raise InvalidArgument("a container can't be renamed to the name that it has", reason="INVALID_NAME")
            changed = self._md.containers.update(container_id, name=name, spec=replace(container.spec, name=name))
            self._life.event(changed, "rename", oldName=container.name)
            self._life.watch.changed(container_id)
            if container.state in ALIVE:
                await self._life.launcher.network.renamed()

    async def update(self, container_id: str, change: ContainerChange) -> Container:
        """Raises InvalidArgument (as create), FailedPrecondition (MEMORY_IN_USE, LIMIT_REFUSED, CONTAINER_BUSY)."""
        async with self._life.locks.get(container_id):
            container = self._present(container_id)
            spec = changed_spec(container.spec, change)
            self._admit(spec)
            return await to_end(self._update(container, spec))

    async def _update(self, container: Container, spec: ContainerSpec) -> Container:
        before, after = container.spec.resources, spec.resources
        if container.state in ALIVE:
            smaller = after.memory_bytes if after.memory_bytes != before.memory_bytes else 0
            await self._runtime.set_limits(container.id, limit_files(before, after, self._limits), smaller)
        try:
            updated = self._md.containers.update(container.id, spec=spec, **_stop_note(container, spec))
        except BaseException:
            if container.state in ALIVE:
                await self._runtime.set_limits(container.id, limit_files(after, before, self._limits))
            raise
        if updated.state is ContainerState.RESTARTING and not wants_restart(updated, updated.exit_code or 1):
            # The policy that it waited for is no more.
            self._life.drop_timer(container.id)
            updated = self._md.containers.update(container.id, state=ContainerState.EXITED)
        self._life.event(updated, "update")
        self._life.watch.changed(container.id)
        return updated

    def _present(self, container_id: str) -> Container:
        container = self._md.containers.find(container_id)
        if container.state in GONE or container.state is ContainerState.CREATING:
            raise FailedPrecondition(
                f"container {container.name} is {container.state.value}", reason="CONTAINER_BUSY", hint="try again"
            )
        return container


def _stop_note(container: Container, spec: ContainerSpec) -> dict[str, bool]:
    """Whether it was stopped is only noted of containers with a restart policy: of one that gets its first while it
    does not run it is taken for granted, or the next start of the daemon would bring it back."""
    first = container.spec.restart_policy.name is RestartPolicyName.NO
    given = spec.restart_policy.name is not RestartPolicyName.NO
    return {"stopped_by_user": True} if first and given and container.state is ContainerState.EXITED else {}


def changed_spec(spec: ContainerSpec, change: ContainerChange) -> ContainerSpec:
    """What is asked for after the change; pure. Raises InvalidArgument (INVALID_MEMORY, INVALID_CPUS, INVALID_PIDS,
    INVALID_BLKIO, INVALID_RESTART_POLICY)."""
    given = {name: value for name in _LIMITS if (value := getattr(change, name)) is not None}
    taken = {name: 0 if value == -1 and name not in _MINUS_ONE_MEANS_NONE else value for name, value in given.items()}
    if taken.get("memory_bytes") == 0 and "memory_swap_bytes" not in taken:
        taken["memory_swap_bytes"] = 0
    if taken.get("memory_swap_bytes") == -1 and not taken.get("memory_bytes", spec.resources.memory_bytes):
        taken["memory_swap_bytes"] = 0
    resources: Resources = replace(spec.resources, **taken)
    check_limits(resources)
    policy = change.restart_policy or spec.restart_policy
    _check_policy(spec, policy)
    return replace(spec, resources=resources, restart_policy=policy)


def _check_policy(spec: ContainerSpec, policy: RestartPolicy) -> None:
    if policy.max_retries < 0 or (policy.max_retries and policy.name is not RestartPolicyName.ON_FAILURE):
        raise InvalidArgument("a maximum retry count goes only with on-failure", reason="INVALID_RESTART_POLICY")
    if spec.auto_remove and policy.name is not RestartPolicyName.NO:
        raise InvalidArgument(
            "a container that is removed when it ends (--rm) can't have a restart policy",
            reason="INVALID_RESTART_POLICY",
        )
