"""What can be done with containers besides running them, as the API calls it. Part of engine.ports.Engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from shoald.model.change import ContainerChange
from shoald.model.container import Container
from shoald.model.image import Image
from shoald.model.insight import Change, ProcessTable, StatsSample


class ControlUses(Protocol):
    """Changes of containers that exist. All raise NotFound (CONTAINER_NOT_FOUND)."""

    async def pause(self, name: str, request_id: str = "") -> None:
        """Freeze. Raises FailedPrecondition (NOT_RUNNING, ALREADY_PAUSED)."""

    async def unpause(self, name: str, request_id: str = "") -> None:
        """Thaw. Raises FailedPrecondition (NOT_PAUSED)."""

    async def rename(self, name: str, new_name: str, request_id: str = "") -> None:
        """Raises InvalidArgument (INVALID_NAME), AlreadyExists (NAME_IN_USE)."""

    async def update(self, name: str, change: ContainerChange, request_id: str = "") -> tuple[Container, list[str]]:
        """The container after it, and warnings."""

    async def prune(self, labels: Sequence[tuple[str, str]], until: datetime | None) -> tuple[list[str], int]:
        """Remove what does not run: ids, and bytes that were freed."""

    async def sizes(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Bytes of writable layers by container id; what is gone meanwhile is left out."""


class InsightUses(Protocol):
    """What is found out about containers."""

    async def top(self, name: str, arguments: Sequence[str]) -> ProcessTable:
        """Processes, by ps(1) of the host."""

    def stats(self, names: Sequence[str], one_shot: bool, interval_s: float = 1.0) -> AsyncIterator[list[StatsSample]]:
        """Samples of all that are named (all that run, when none is), each time in one list."""

    def changes(self, name: str) -> AsyncIterator[list[Change]]:
        """What the container changed of its image's files, in batches."""

    async def commit(
        self,
        request_id: str,
        name: str,
        reference: str,
        author: str,
        message: str,
        changes: Sequence[str],
        pause: bool,
    ) -> Image:
        """An image of its files and configuration."""
