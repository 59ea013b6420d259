"""The health of running containers: one task for each that has a check, none for the others.

As moby's `daemon/health.go`: a failure in the start period does not count until a check has passed; `retries` failures
in a row make it unhealthy; the last five checks are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog
from msgspec.structs import replace

from shoal.errors import NotFound, ShoalError
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState, Health, HealthCheck, HealthProbe, HealthStatus

log = structlog.get_logger(__name__)

KEPT = 5
LEAST_PAUSE_S = 0.01
Probe = Callable[[Container, HealthCheck], Awaitable[HealthProbe | None]]
"""Runs a check once; None when there was nothing to find out (the container ended or is frozen)."""


class Told(Protocol):
    """Publishes an event of a container."""

    def __call__(self, container: Container, action: str, /, **attributes: str) -> None: ...


class HealthMonitor:
    """Follows containers from `follow` to `drop`; what it finds out is in their rows."""

    def __init__(self, md: Metadata, probe: Probe, told: Told, changed: Callable[[str], None]) -> None:
        self._md = md
        self._probe = probe
        self._told = told
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: set[asyncio.Task[None]] = set()

    def follow(self, container: Container) -> None:
        """It runs (again)."""
        self.drop(container.id)
        if container.health_check is not None and container.state is ContainerState.RUNNING:
            task = asyncio.create_task(self._follow(container, container.health_check), name=f"health {container.name}")
            self._tasks[container.id] = task
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)

    def drop(self, container_id: str) -> asyncio.Task[None] | None:
        """It does not run, or is paused. A check that is under way is ended: with the task that is returned."""
        task = self._tasks.pop(container_id, None)
        if task is not None:
            task.cancel()
        return task

    async def stop(self, container_id: str) -> None:
        """As `drop`, and wait until no check is under way any more."""
        task = self.drop(container_id)
        if task is not None:
            await asyncio.wait({task})

    async def close(self) -> None:
        """Follow none any more."""
        for container_id in list(self._tasks):
            self.drop(container_id)
        if self._ended:
            await asyncio.wait(self._ended)

    async def _follow(self, container: Container, check: HealthCheck) -> None:
        health = container.health or Health(HealthStatus.STARTING)
        while True:
            await asyncio.sleep(pause_s(container, check, health, datetime.now(UTC)))
            try:
                probe = await self._probe(container, check)
                if probe is None:
                    continue
                before, health = health, after_probe(container, check, health, probe)
                container = self._md.containers.update(container.id, health=health)
            except NotFound:
                return
            except (ShoalError, OSError) as error:
                log.error("health_not_noted", container=container.id, error=str(error))
                continue
            if health.status is not before.status:
                self._told(container, f"health_status: {health.status}")
                self._changed(container.id)


def pause_s(container: Container, check: HealthCheck, health: Health, now: datetime) -> float:
    """Seconds until the next check: never none, whatever an image says."""
    if health.status is HealthStatus.STARTING and _starting(container, check, now):
        return max(check.start_interval_s, LEAST_PAUSE_S)
    return max(check.interval_s, LEAST_PAUSE_S)


def after_probe(container: Container, check: HealthCheck, before: Health, probe: HealthProbe) -> Health:
    """What a check makes of the health; pure."""
    kept = (*before.log, probe)[-KEPT:]
    if probe.exit_code == 0:
        return Health(HealthStatus.HEALTHY, 0, kept)
    if before.status is HealthStatus.STARTING and _starting(container, check, probe.start):
        return replace(before, log=kept)
    streak = before.failing_streak + 1
    return Health(HealthStatus.UNHEALTHY if streak >= check.retries else before.status, streak, kept)


def _starting(container: Container, check: HealthCheck, at: datetime) -> bool:
    began = container.started_at or at
    return (at - began).total_seconds() < check.start_period_s
