"""Use cases of containers that exist: pause, unpause, rename, update, prune, sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
import structlog

from shoal.errors import FailedPrecondition, NotFound, ShoalError
from shoald.containers.lifecycle import Publish
from shoald.containers.supervisor import Supervisor
from shoald.engine.operations import Once
from shoald.metadata.store import Metadata
from shoald.model.change import ContainerChange
from shoald.model.container import Container, ContainerSpec, ContainerState
from shoald.snapshots.ports import Snapshotter

log = structlog.get_logger(__name__)

AT_ONCE = 8
IDLE = (ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD)


class ControlCases:
    """See engine.control_ports.ControlUses. Work that began is not cancelled with its caller."""

    def __init__(
        self,
        md: Metadata,
        supervisor: Supervisor,
        snapshots: Snapshotter,
        publish: Publish,
        warnings: Callable[[ContainerSpec], list[str]],
    ) -> None:
        self._md = md
        self._supervisor = supervisor
        self._snapshots = snapshots
        self._publish = publish
        self._warnings = warnings
        self._once = Once()

    def _id(self, name: str) -> str:
        return self._md.containers.find(name).id

    async def pause(self, name: str, request_id: str = "") -> None:
        """See ControlUses."""
        await self._once.run(request_id, f"pause {name}", lambda: self._supervisor.freezing.pause(self._id(name)))

    async def unpause(self, name: str, request_id: str = "") -> None:
        """See ControlUses."""
        await self._once.run(request_id, f"unpause {name}", lambda: self._supervisor.freezing.unpause(self._id(name)))

    async def rename(self, name: str, new_name: str, request_id: str = "") -> None:
        """See ControlUses."""

        async def work() -> None:
            await self._supervisor.changing.rename(self._id(name), new_name)

        await self._once.run(request_id, f"rename {name} {new_name}", work)

    async def update(self, name: str, change: ContainerChange, request_id: str = "") -> tuple[Container, list[str]]:
        """See ControlUses. Warns only of what it did not have before."""

        async def work() -> tuple[Container, list[str]]:
            before = self._md.containers.find(name)
            known = self._warnings(before.spec)
            updated = await self._supervisor.changing.update(before.id, change)
            return updated, [warning for warning in self._warnings(updated.spec) if warning not in known]

        return await self._once.run(request_id, f"update {name} {msgspec.json.encode(change).decode()}", work)

    async def prune(self, labels: Sequence[tuple[str, str]], until: datetime | None) -> tuple[list[str], int]:
        """See ControlUses. What can't be removed, or runs meanwhile, stays."""

        async def work() -> tuple[list[str], int]:
            chosen = [c for c in self._md.containers.list() if c.state in IDLE and _prunable(c, labels, until)]
            sizes = await self.sizes([container.id for container in chosen])
            free = asyncio.Semaphore(AT_ONCE)

            async def remove(container: Container) -> str:
                async with free:
                    try:
                        await self._supervisor.remove(container.id, force=False, volumes=False)
                    except FailedPrecondition:
                        return ""  # somebody started it
                    except ShoalError as error:
                        log.error("container_not_pruned", container=container.id, error=str(error))
                        return ""
                return container.id

            removed = [each for each in await asyncio.gather(*map(remove, chosen)) if each]
            freed = sum(sizes.get(each, 0) for each in removed)
            self._publish("container", "prune", "", {"reclaimed": str(freed)})
            return removed, freed

        return await self._once.run("", "prune", work)

    async def sizes(self, ids: Sequence[str]) -> Mapping[str, int]:
        """See ControlUses."""
        free = asyncio.Semaphore(AT_ONCE)

        async def one(container_id: str) -> int | None:
            container = self._md.containers.get(container_id)
            if container is None or not container.snapshot_id:
                return None
            async with free:
                try:
                    return await self._snapshots.usage(container.snapshot_id)
                except NotFound:
                    return None

        found = await asyncio.gather(*map(one, ids))
        return {each: size for each, size in zip(ids, found, strict=True) if size is not None}


def _prunable(container: Container, labels: Sequence[tuple[str, str]], until: datetime | None) -> bool:
    own = container.spec.labels
    asked = all(key in own and (not value or own[key] == value) for key, value in labels)
    return asked and (until is None or container.created_at < until)
