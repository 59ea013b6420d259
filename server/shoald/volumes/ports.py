"""Protocol of a volume driver. Contract suite: tests/contract/test_volumes.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shoald.model.snapshot import Volume


class VolumeDriver(Protocol):
    """Named volumes as directories; owner ids on disk are those that containers see."""

    async def ensure(self, name: str, *, anonymous: bool = False) -> tuple[Volume, bool]:
        """The volume, made if it is not there; the bool tells that it was made now (and is empty).
        Raises InvalidArgument (INVALID_VOLUME_NAME), as Docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+."""

    def path(self, name: str) -> Path:
        """Directory with the volume's files. Raises NotFound (VOLUME_NOT_FOUND)."""

    def list(self) -> Sequence[Volume]:
        """All volumes, by name."""

    async def remove(self, name: str, *, besides: str = "") -> None:
        """Delete. A container `besides` that is being removed does not count as a user. Raises NotFound
        (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_IN_USE, naming the containers)."""
