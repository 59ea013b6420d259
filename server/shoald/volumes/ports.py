"""Protocol of a volume driver. Contract suite: tests/contract/test_volumes.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shoald.model.snapshot import Volume


class VolumeDriver(Protocol):
    """Named volumes as directories; owner ids on disk are those that containers see."""

    async def ensure(
        self,
        name: str,
        *,
        anonymous: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> tuple[Volume, bool]:
        """The volume, made with these labels and options if it is not there; the bool tells that it was made now (and
        is empty). Raises InvalidArgument (INVALID_VOLUME_NAME, as Docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+;
        INVALID_VOLUME_OPTION), AlreadyExists (VOLUME_EXISTS) when it has other options than those asked for."""

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Raises what `ensure` would raise, and makes nothing. An empty name stands for a new one."""

    async def acquire(self, name: str, owner: str) -> Path:
        """The directory with its files, for the use of `owner` until it releases: what the options ask for is mounted
        for the first one. Raises NotFound (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_MOUNT_FAILED)."""

    async def release(self, owner: str) -> None:
        """All volumes that `owner` holds; unmounts those that nobody holds any more. Idempotent."""

    def holders(self, name: str) -> int:
        """How many hold it at this moment."""

    def path(self, name: str) -> Path:
        """Directory with the volume's files. Raises NotFound (VOLUME_NOT_FOUND)."""

    def list(self) -> Sequence[Volume]:
        """All volumes, by name."""

    async def remove(self, name: str, *, besides: str = "") -> None:
        """Delete. A container `besides` that is being removed does not count as a user. Raises NotFound
        (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_IN_USE, naming the containers)."""
