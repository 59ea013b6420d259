"""Waiting for something to become true of a container."""

from __future__ import annotations

from shoal.errors import FailedPrecondition, NotFound
from shoald.containers.ghosts import Ghosts
from shoald.containers.lifecycle import Lifecycle
from shoald.containers.watch import RunEnd
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState, HealthStatus

SETTLED = (ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD)
MAY_BE_HEALTHY = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)


class Waiting:
    """Looks at the row after each change."""

    def __init__(self, md: Metadata, life: Lifecycle, ghosts: Ghosts) -> None:
        self._md = md
        self._life = life
        self._ghosts = ghosts

    async def wait(self, container_id: str, condition: str) -> RunEnd:
        """See shoal.v1.ContainerServiceWaitRequest.Condition; "not-running", "next-exit", "removed" or "healthy".

        "not-running" also means that its ports are free, "removed" that its name is. Raises FailedPrecondition with
        "healthy" (NO_HEALTH_CHECK, NOT_RUNNING).
        """
        seen = self._life.watch.exits(container_id)
        known: Container | None = None
        while True:
            event = self._life.watch.event(container_id)
            current = self._md.containers.get(container_id)
            known = current or known
            last = self._life.watch.last_end(container_id)
            if condition == "healthy":
                if current is None:
                    raise NotFound("the container was removed", reason="CONTAINER_NOT_FOUND")
                if _healthy(current):
                    return RunEnd(0, 0, False)
            elif current is None:
                return last or _end_of(known or self._ghosts.get(container_id))
            elif condition == "next-exit" and last is not None and last.number > seen:
                return last
            elif condition == "not-running" and current.state in SETTLED:
                return _end_of(current)
            await event.wait()


def _healthy(container: Container) -> bool:
    if container.health_check is None:
        raise FailedPrecondition(
            f"container {container.name} has no health check",
            reason="NO_HEALTH_CHECK",
            hint="run it with --health-cmd, or build its image with HEALTHCHECK",
        )
    if container.state not in MAY_BE_HEALTHY:
        raise FailedPrecondition(
            f"container {container.name} is not running ({container.state.value})", reason="NOT_RUNNING"
        )
    health = container.health
    return container.state is ContainerState.RUNNING and health is not None and health.status is HealthStatus.HEALTHY


def _end_of(container: Container | None) -> RunEnd:
    if container is None:
        raise NotFound("no such container", reason="CONTAINER_NOT_FOUND")
    return RunEnd(0, container.exit_code or 0, container.oom_killed, container.error)
