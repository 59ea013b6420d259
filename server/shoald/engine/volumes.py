"""Use cases of volumes."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog

from shoal.errors import FailedPrecondition, NotFound, ShoalError
from shoald.containers.volumetar import merged, packed, unpacked
from shoald.engine.volume_ports import VolumeDetails, VolumeFilter
from shoald.host.blocking import in_thread, to_end
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree, tree_size
from shoald.metadata.store import Metadata
from shoald.model.snapshot import Volume
from shoald.volumes.local import LocalVolumes

log = structlog.get_logger(__name__)

Publish = Callable[[str, str, str, dict[str, str]], Any]


class VolumeCases:
    """What a caller can do with volumes."""

    def __init__(self, md: Metadata, volumes: LocalVolumes, publish: Publish) -> None:
        self._md = md
        self._volumes = volumes
        self._publish = publish

    def list(self, wanted: VolumeFilter) -> Sequence[Volume]:
        """By name."""
        return [volume for volume in self._volumes.list() if self._selects(wanted, volume)]

    def path(self, name: str) -> str:
        """Where it is mounted from."""
        return str(self._volumes.path(name))

    def _selects(self, wanted: VolumeFilter, volume: Volume) -> bool:
        if wanted.name not in volume.name or not labelled(volume, wanted.labels):
            return False
        return not (wanted.dangling and self._md.volumes.users(volume.name))

    async def create(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> Volume:
        """Idempotent. An empty name: a random one. Raises InvalidArgument, AlreadyExists (VOLUME_EXISTS)."""
        volume, _ = await self._volumes.ensure(
            name or secrets.token_hex(32), anonymous=not name, labels=labels, options=options, exact=True
        )
        return volume

    async def inspect(self, name: str) -> VolumeDetails:
        """Raises NotFound (VOLUME_NOT_FOUND)."""
        volume = self._volumes.get(name)
        path = self._volumes.path(name)
        size = await asyncio.to_thread(_size, path)
        return VolumeDetails(volume, str(path), tuple(self._md.volumes.users(name)), size)

    async def prune(self, everything: bool, labels: tuple[tuple[str, str], ...]) -> tuple[Sequence[str], int]:
        """Remove volumes that no container names: anonymous ones, or all. Their names, and the bytes that are free."""
        removed = []
        freed = 0
        for volume in self._volumes.list():
            if not (everything or volume.anonymous) or not labelled(volume, labels):
                continue
            if self._md.volumes.users(volume.name):
                continue
            try:
                size = 0 if volume.options else await asyncio.to_thread(_size, self._volumes.path(volume.name))
                await to_end(self._volumes.remove(volume.name))
            except (FailedPrecondition, NotFound):
                continue  # somebody was quicker
            removed.append(volume.name)
            freed += size
        self._tell("prune", "", reclaimed=str(freed))
        return removed, freed

    async def remove(self, name: str) -> None:
        """Raises NotFound (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_IN_USE)."""
        await to_end(self._volumes.remove(name))

    # --- archives ---------------------------------------------------------------------------------------------------

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """The content as an uncompressed tar. Raises NotFound (VOLUME_NOT_FOUND), FailedPrecondition (CHANGED)."""
        owner = _operation("export")
        path = await self._volumes.acquire(name, owner)
        try:
            async with aclosing(packed(path)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        finally:
            await self._volumes.release(owner)

    async def load(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar into the volume, which is made if it does not exist. See shoal.v1.VolumeService.Import.

        What is wrong with the archive is found before the volume is touched. A volume that was made for it goes again.
        """
        self._volumes.check(name, {}, empty_is_new=False)
        staging = self._volumes.staging(name)
        try:
            with translated("make directory", staging):
                staging.mkdir(mode=0o755)
                os.chmod(staging, 0o755)
            await unpacked(chunks, staging)
            await to_end(self._take_in(name, staging))
        finally:
            if staging.exists():
                await in_thread(functools.partial(remove_tree, staging))

    async def _take_in(self, name: str, staging: Path) -> None:
        owner = _operation("import")
        _, made = await self._volumes.ensure(name)
        try:
            path = await self._volumes.acquire(name, owner)
            if not await self._volumes.replace(name, staging):
                await merged(staging, path)
        except BaseException:
            if made:
                await self._volumes.release(owner)
                await self._undo(name)
            raise
        finally:
            await self._volumes.release(owner)

    async def _undo(self, name: str) -> None:
        try:
            await self._volumes.remove(name)
        except ShoalError as error:
            log.error("import_not_undone", volume=name, error=str(error))

    def _tell(self, action: str, name: str, **attributes: str) -> None:
        try:
            self._publish("volume", action, name, {"driver": "local", **attributes})
        except ShoalError as error:
            log.error("event_not_stored", volume=name, action=action, error=str(error))


def labelled(volume: Volume, wanted: tuple[tuple[str, str], ...]) -> bool:
    """Whether it carries these labels; an empty value asks for the key only."""
    return all(key in volume.labels and (not value or volume.labels[key] == value) for key, value in wanted)


def _operation(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(8)}"


def _size(path: Path) -> int:
    try:
        return tree_size(path).allocated
    except ShoalError:
        return 0
