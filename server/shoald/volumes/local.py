"""Volumes as directories: `<root>/<name>/data`."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoald.host.blocking import in_thread
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree
from shoald.metadata import Metadata
from shoald.metadata.rows import now
from shoald.model.snapshot import Volume

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_NAME = 200
_TRASH = ".trash-"


class LocalVolumes:
    """Implements VolumeDriver. The root is 0700: only mounts lead to the data."""

    def __init__(self, md: Metadata, root: Path) -> None:
        self._md = md
        self._root = root
        with translated("make volume directory"):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def ensure(self, name: str, *, anonymous: bool = False) -> tuple[Volume, bool]:
        """The volume, made if it is not there; the bool tells that it was made now (and is empty).

        A directory that a power cut separated from its row is taken up again with its files (and counts as there).
        Raises InvalidArgument (INVALID_VOLUME_NAME), ResourceExhausted (DISK_FULL).
        """
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            raise InvalidArgument(
                f"invalid volume name {name[:_MAX_NAME]!r}",
                reason="INVALID_VOLUME_NAME",
                hint=f"use 2 to {_MAX_NAME} characters of a-z, A-Z, 0-9, _, . and -, the first one a letter or digit",
            )
        # No await between the question and the row: two callers never both make it.
        volume = self._md.volumes.get(name)
        empty = _make(self._data(name))
        if volume is not None:
            return volume, False
        volume = Volume(name, now(), anonymous)
        self._md.volumes.insert(volume)
        await in_thread(self._md.flush)
        return volume, empty

    def path(self, name: str) -> Path:
        """Directory with the volume's files. Raises NotFound (VOLUME_NOT_FOUND)."""
        if self._md.volumes.get(name) is None:
            raise _missing(name)
        return self._data(name)

    def list(self) -> Sequence[Volume]:
        """All volumes, by name."""
        return self._md.volumes.list()

    async def remove(self, name: str, *, besides: str = "") -> None:
        """Delete; see VolumeDriver. Raises NotFound (VOLUME_NOT_FOUND), FailedPrecondition (VOLUME_IN_USE)."""
        if self._md.volumes.get(name) is None:
            raise _missing(name)
        users = [user for user in self._md.volumes.users(name) if user != besides]
        if users:
            raise FailedPrecondition(
                f"volume {name} is in use by {', '.join(user[:12] for user in users)}",
                reason="VOLUME_IN_USE",
                hint="remove these containers first",
                metadata={"containers": ",".join(users)},
            )
        # No await between row and rename: a volume of the same name that is made next starts empty.
        trash = self._root / f"{_TRASH}{secrets.token_hex(7)}"
        self._md.volumes.delete(name)
        with translated("remove volume"), contextlib.suppress(FileNotFoundError):
            (self._root / name).rename(trash)
        await in_thread(functools.partial(remove_tree, trash))

    async def sweep(self) -> int:
        """Finish removals that a crash interrupted; returns how many. For start-up."""
        trash = sorted(self._root.glob(f"{_TRASH}*"))
        for path in trash:
            await in_thread(functools.partial(remove_tree, path))
        return len(trash)

    def _data(self, name: str) -> Path:
        return self._root / name / "data"


def _make(data: Path) -> bool:
    """Make the directory if it is missing; whether it is empty."""
    with translated("make volume"):
        data.parent.mkdir(exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            data.mkdir(mode=0o700)
            data.chmod(0o755)
        return next(data.iterdir(), None) is None


def _missing(name: str) -> NotFound:
    return NotFound(
        f"no such volume: {name}",
        reason="VOLUME_NOT_FOUND",
        metadata={"volume": name},
    )
