"""Volumes as directories: `<root>/<name>/data`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ShoalError
from shoald.host.blocking import in_thread, to_end
from shoald.host.mounts import mount_points
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree
from shoald.metadata import Metadata
from shoald.metadata.rows import now
from shoald.model.container import ContainerState, MountKind
from shoald.model.snapshot import Volume
from shoald.volumes.mounting import mount_volume, unmount_volume
from shoald.volumes.options import volume_mount

log = structlog.get_logger(__name__)

Publish = Callable[[str, str, str, dict[str, str]], None]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_NAME = 200
_TRASH = ".trash-"
_CLEARING_S = 10.0
"""How long a container that is removed may hold a volume that is to be removed too."""
_HOLDING = (ContainerState.RUNNING, ContainerState.PAUSED)


class LocalVolumes:
    """Implements VolumeDriver. The root is 0700: only mounts lead to the data."""

    def __init__(self, md: Metadata, root: Path, publish: Publish | None = None) -> None:
        """`publish(type, action, name, attributes)` is told what happens to volumes."""
        self._md = md
        self._root = root
        self._publish = publish
        self._users: dict[str, set[str]] = {}
        self._mounted: set[str] = set()
        self._released = asyncio.Event()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        with translated("make volume directory"):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- make -------------------------------------------------------------------------------------------------------

    async def ensure(
        self,
        name: str,
        *,
        anonymous: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> tuple[Volume, bool]:
        """The volume, made if it is not there; the bool tells that it was made now (and is empty).

        A directory that a power cut separated from its row is taken up again with its files (and counts as there).
        Raises InvalidArgument (INVALID_VOLUME_NAME, INVALID_VOLUME_OPTION), AlreadyExists (VOLUME_EXISTS),
        ResourceExhausted (DISK_FULL).
        """
        self.check(name, options or {}, empty_is_new=False, exact=exact)
        # No await between the question and the row: two callers never both make it.
        volume = self._md.volumes.get(name)
        if volume is not None:
            if name not in self._mounted:
                _make(self._data(name))
            return volume, False
        empty = _make(self._data(name))
        volume = Volume(name, now(), anonymous, dict(labels or {}), dict(options or {}))
        self._md.volumes.insert(volume)
        self._tell("create", name)
        await in_thread(self._md.flush)
        return volume, empty

    def check(self, name: str, options: Mapping[str, str], *, empty_is_new: bool = True, exact: bool = False) -> None:
        """See VolumeDriver.check. `exact`: a volume with options is none without."""
        if not (empty_is_new and not name) and (not _NAME.fullmatch(name) or len(name) > _MAX_NAME):
            raise InvalidArgument(
                f"invalid volume name {name[:_MAX_NAME]!r}",
                reason="INVALID_VOLUME_NAME",
                hint=f"use 2 to {_MAX_NAME} characters of a-z, A-Z, 0-9, _, . and -, the first one a letter or digit",
            )
        volume_mount(options)
        volume = self._md.volumes.get(name)
        if volume is not None and (options or exact) and dict(volume.options) != dict(options):
            raise AlreadyExists(
                f"volume {name} exists already, with other options",
                reason="VOLUME_EXISTS",
                hint="remove it first, or choose another name",
                metadata={"volume": name},
            )

    def path(self, name: str) -> Path:
        """Directory with the volume's files. Raises NotFound (VOLUME_NOT_FOUND)."""
        self.get(name)
        return self._data(name)

    def get(self, name: str) -> Volume:
        """The record. Raises NotFound (VOLUME_NOT_FOUND)."""
        volume = self._md.volumes.get(name)
        if volume is None:
            raise _missing(name)
        return volume

    def list(self) -> Sequence[Volume]:
        """All volumes, by name."""
        return self._md.volumes.list()

    # --- use --------------------------------------------------------------------------------------------------------

    async def acquire(self, name: str, owner: str) -> Path:
        """See VolumeDriver.acquire."""
        return await to_end(self._acquire(name, owner))

    async def _acquire(self, name: str, owner: str) -> Path:
        async with self._lock(name):
            volume = self.get(name)
            data = self._data(name)
            wanted = volume_mount(volume.options)
            if wanted is not None and name not in self._mounted:
                await mount_volume(name, wanted, data)
                self._mounted.add(name)
            users = self._users.setdefault(name, set())
            if owner not in users:
                users.add(owner)
                self._tell("mount", name, container=owner)
            return data

    async def release(self, owner: str) -> None:
        """See VolumeDriver.release."""
        for name in [name for name, users in self._users.items() if owner in users]:
            await to_end(self._release(name, owner))

    async def _release(self, name: str, owner: str) -> None:
        async with self._lock(name):
            users = self._users.get(name, set())
            if owner not in users:
                return
            if len(users) == 1:
                await self._unmount(name)
                del self._users[name]
            else:
                users.discard(owner)
            self._tell("unmount", name, container=owner)
            self._released.set()
            self._released = asyncio.Event()

    async def _unmount(self, name: str) -> None:
        if name in self._mounted:
            await unmount_volume(self._data(name))
            self._mounted.discard(name)

    def holders(self, name: str) -> int:
        """How many hold it at this moment."""
        return len(self._users.get(name, ()))

    async def replace(self, name: str, staging: Path) -> bool:
        """Let the tree `staging` be the volume's content, in one step; False (and nothing is done) when the volume is
        held by more than one, is not empty, or is a mount."""
        async with self._lock(name):
            data = self._data(name)
            if len(self._users.get(name, ())) > 1 or self.get(name).options or not _is_empty(data):
                return False
            with translated("fill volume", data):
                staging.rename(data)
            return True

    def staging(self, name: str) -> Path:
        """A place beside the volume's files for a tree that is being made; `sweep` removes what a crash leaves."""
        return self._root / f"{_TRASH}{secrets.token_hex(7)}-{name[:20]}"

    # --- remove -----------------------------------------------------------------------------------------------------

    async def remove(self, name: str, *, besides: str = "") -> None:
        """Delete; see VolumeDriver. Raises NotFound (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_IN_USE)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEARING_S):
                await self._until_cleared(name, besides)
        async with self._lock(name):
            self.get(name)
            users = self.users(name, besides=besides)
            if users:
                raise FailedPrecondition(
                    f"volume {name} is in use by {', '.join(user[:12] for user in users)}",
                    reason="VOLUME_IN_USE",
                    hint="remove these containers first",
                    metadata={"containers": ",".join(users)},
                )
            if name in self._mounted:
                await self._unmount(name)
            self._users.pop(name, None)
            # First the files: a row without them is an empty volume, files without a row would come back to life in the
            # next volume of this name. No await between the two.
            trash = self._root / f"{_TRASH}{secrets.token_hex(7)}"
            with translated("remove volume"), contextlib.suppress(FileNotFoundError):
                (self._root / name).rename(trash)
            try:
                self._md.volumes.delete(name)
            except ShoalError:
                with contextlib.suppress(OSError):
                    trash.rename(self._root / name)
                raise
        self._tell("destroy", name)
        await in_thread(functools.partial(remove_tree, trash))

    def users(self, name: str, *, besides: str = "") -> Sequence[str]:
        """Containers that name it, and whoever else holds it at this moment."""
        named = self._md.volumes.users(name)
        held = sorted(self._users.get(name, set()).difference(named))
        return [user for user in (*named, *held) if user != besides]

    async def _until_cleared(self, name: str, besides: str) -> None:
        """Wait for containers that are removed already, but for what is cleared up after that."""
        while True:
            released = self._released
            users = self.users(name, besides=besides)
            if not users or any(not _is_container(user) or self._md.containers.get(user) for user in users):
                return
            await released.wait()

    async def sweep(self) -> int:
        """Finish removals that a crash interrupted; returns how many. For start-up."""
        trash = sorted(self._root.glob(f"{_TRASH}*"))
        for path in trash:
            await in_thread(functools.partial(remove_tree, path))
        return len(trash)

    async def recover(self) -> None:
        """Take over the mounts of an earlier daemon: those of running containers stay, others end. Call before
        containers are recovered."""
        mounted = {point.path for point in await in_thread(lambda: mount_points(self._root))}
        self._mounted = {volume.name for volume in self.list() if self._data(volume.name).resolve() in mounted}
        for container in self._md.containers.list():
            if container.state in _HOLDING:
                for mount in container.spec.mounts:
                    if mount.kind is MountKind.VOLUME:
                        self._users.setdefault(mount.source, set()).add(container.id)
        for name in [name for name in self._mounted if not self._users.get(name)]:
            log.info("unmounting_stray_volume", volume=name)
            await self._unmount(name)

    # ----------------------------------------------------------------------------------------------------------------

    def _data(self, name: str) -> Path:
        return self._root / name / "data"

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _tell(self, action: str, name: str, **attributes: str) -> None:
        if self._publish is None:
            return
        try:
            self._publish("volume", action, name, {"driver": "local", **attributes})
        except ShoalError as error:
            log.error("event_not_stored", volume=name, action=action, error=str(error))


def _make(data: Path) -> bool:
    """Make the directory if it is missing; whether it is empty."""
    with translated("make volume"):
        data.parent.mkdir(exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            data.mkdir(mode=0o700)
            data.chmod(0o755)
        return _is_empty(data)


def _is_empty(data: Path) -> bool:
    return next(data.iterdir(), None) is None


def _is_container(owner: str) -> bool:
    return len(owner) == 64


def _missing(name: str) -> NotFound:
    return NotFound(
        f"no such volume: {name}",
        reason="VOLUME_NOT_FOUND",
        hint="`shoal volume ls` lists all",
        metadata={"volume": name},
    )
