"""Pause, unpause, and holding a container still for a moment."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import structlog

from shoal.errors import FailedPrecondition, ShoalError
from shoald.containers.lifecycle import Lifecycle
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState
from shoald.runtime.ports import ContainerRuntime

log = structlog.get_logger(__name__)


class Freezing:
    """The row says whether a user paused it. What is only held still, and what a killed daemon left so, is thawed."""

    def __init__(self, md: Metadata, life: Lifecycle, runtime: ContainerRuntime) -> None:
        self._md = md
        self._life = life
        self._runtime = runtime
        self._held: Counter[str] = Counter()

    async def pause(self, container_id: str) -> None:
        """Raises FailedPrecondition (NOT_RUNNING, ALREADY_PAUSED)."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is ContainerState.PAUSED:
                raise FailedPrecondition(f"container {container.name} is already paused", reason="ALREADY_PAUSED")
            if container.state is not ContainerState.RUNNING:
                raise FailedPrecondition(
                    f"container {container.name} is not running ({container.state.value})", reason="NOT_RUNNING"
                )
            await to_end(self._pause(container))

    async def _pause(self, container: Container) -> None:
        # First: a check that is under way would be frozen too, and could not be ended.
        await self._life.health.stop(container.id)
        try:
            await self._runtime.pause(container.id)
            container = self._md.containers.update(container.id, state=ContainerState.PAUSED)
        except BaseException:
            with contextlib.suppress(ShoalError):
                await self._thaw(container)
            self._life.health.follow(container)
            raise
        self._life.event(container, "pause")
        self._life.watch.changed(container.id)

    async def unpause(self, container_id: str) -> None:
        """Raises FailedPrecondition (NOT_PAUSED)."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            if container.state is not ContainerState.PAUSED:
                raise FailedPrecondition(f"container {container.name} is not paused", reason="NOT_PAUSED")
            await to_end(self._unpause(container))

    async def _unpause(self, container: Container) -> None:
        await self._thaw(container)
        container = self._md.containers.update(container.id, state=ContainerState.RUNNING)
        self._life.health.follow(container)
        self._life.event(container, "unpause")
        self._life.watch.changed(container.id)

    async def _thaw(self, container: Container) -> None:
        if not self._held[container.id]:
            await self._runtime.resume(container.id)

    async def signalled(self, container_id: str) -> None:
        """A signal that is to end it was sent: let it take the signal, also when it is held still."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.get(container_id)
            if container is None or not self._runtime.paused(container_id):
                return
            try:
                await to_end(self._runtime.resume(container_id))
            except FailedPrecondition:
                return  # it has ended
            if container.state is ContainerState.PAUSED:
                container = self._md.containers.update(container_id, state=ContainerState.RUNNING)
                self._life.health.follow(container)
                self._life.event(container, "unpause")
                self._life.watch.changed(container_id)

    @contextlib.asynccontextmanager
    async def frozen(self, container_id: str) -> AsyncIterator[None]:
        """Hold it still for the time of the block, if it runs. Nothing waits for that: who stops it thaws it."""
        async with self._life.locks.get(container_id):
            container = self._md.containers.find(container_id)
            held = container.state is ContainerState.RUNNING
            if held:
                self._held[container_id] += 1
                try:
                    await to_end(self._runtime.pause(container_id))
                except BaseException:
                    await to_end(self._let_go(container_id))
                    raise
        try:
            yield
        finally:
            if held:
                await to_end(self._released(container_id))

    async def _released(self, container_id: str) -> None:
        async with self._life.locks.get(container_id):
            await self._let_go(container_id)

    async def _let_go(self, container_id: str) -> None:
        self._held[container_id] -= 1
        if self._held[container_id]:
            return
        del self._held[container_id]
        container = self._md.containers.get(container_id)
        if container is not None and container.state is ContainerState.RUNNING:
            with contextlib.suppress(FailedPrecondition):
                await self._runtime.resume(container_id)
