"""The directories of `RUN --mount=type=cache`, by the hash of their identity; beside each a note of what it is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.errors import ShoalError
from shoald.containers.watch import Locks
from shoald.dockerfile.steps import RunMount, Sharing
from shoald.host.files import atomic_write
from shoald.host.trees import remove_tree, tree_size
from shoald.model.buildcache import CacheKind, CacheRecord

_NOTES = ".notes"


class _Note(Struct):
    description: str
    created_ns: int
    used_ns: int
    uses: int = 0


class CacheMounts:
    """All of a host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks = Locks()
        self._claimed: set[str] = set()
        self._in_use: Counter[str] = Counter()

    async def take(
        self, mount: RunMount, origin: str, begin: Callable[[Path], Awaitable[None]] | None, stack: AsyncExitStack
    ) -> Path:
        """The directory for a mount for the time of `stack`, made if it is not there.

        `origin` tells apart caches of one id that begin with different files, which `begin` puts into a path that does
        not exist yet.
        """
        # Any text is a legal id: its hash is a safe name, and no id can name another's directory.
        identity = (mount.id or mount.target) + (f"\0{origin}\0{mount.source}" if begin is not None else "")
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        match mount.sharing:
            case Sharing.LOCKED:
                await stack.enter_async_context(self._locks.get(name))
            case Sharing.PRIVATE:
                name = self._claim_private(name, stack)
        self._in_use[name] += 1
        stack.callback(self._release, name)
        directory = self._directory / name
        if not directory.exists():
            await self._make(directory, mount, begin)
        await asyncio.to_thread(self._noted, name, mount.id or mount.target)
        return directory

    def _release(self, name: str) -> None:
        self._in_use[name] -= 1
        if not self._in_use[name]:
            del self._in_use[name]

    def _claim_private(self, name: str, stack: AsyncExitStack) -> str:
        """The first of the id's private directories that no step uses at this time."""
        free = next(own for number in itertools.count() if (own := f"{name}-{number}") not in self._claimed)
        self._claimed.add(free)
        stack.callback(self._claimed.discard, free)
        return free

    async def _make(self, directory: Path, mount: RunMount, begin: Callable[[Path], Awaitable[None]] | None) -> None:
        """With owner and mode before it has its name: whoever finds it finds it whole."""
        self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        fresh = self._directory / f".new-{secrets.token_hex(8)}"
        try:
            if begin is not None:
                await begin(fresh)
            else:
                fresh.mkdir()
                os.chown(fresh, mount.uid or 0, mount.gid or 0)
                os.chmod(fresh, mount.mode if mount.mode is not None else 0o755)
            with contextlib.suppress(OSError):  # another step may have been faster
                os.rename(fresh, directory)
        finally:
            if fresh.exists():
                await asyncio.shield(asyncio.to_thread(remove_tree, fresh))

    # --- what there is ----------------------------------------------------------------------------------------------

    def records(self) -> list[CacheRecord]:
        """All directories with their sizes. Blocking."""
        found = []
        for name in self._names():
            with contextlib.suppress(FileNotFoundError, ShoalError):
                note = self._note(name)
                found.append(
                    CacheRecord(
                        id=name,
                        kind=CacheKind.MOUNT,
                        description=f"cache mount {note.description}",
                        size_bytes=tree_size(self._directory / name).apparent,
                        created_at=_time(note.created_ns),
                        last_used_at=_time(note.used_ns),
                        use_count=note.uses,
                        in_use=name in self._in_use,
                    )
                )
        return found

    async def remove(self, name: str) -> bool:
        """Delete one that no step uses; whether it went."""
        if name in self._in_use or name not in self._names():
            return False
        gone = self._directory / f".gone-{secrets.token_hex(8)}"
        # No await before the rename: a step that comes now finds no directory and makes a new one.
        os.rename(self._directory / name, gone)
        (self._directory / _NOTES / name).unlink(missing_ok=True)
        await asyncio.shield(asyncio.to_thread(remove_tree, gone))
        return True

    def sweep(self) -> None:
        """Remove what an earlier daemon left half-made or half-removed. Blocking; at start."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if name.startswith((".new-", ".gone-")):
                    remove_tree(self._directory / name)

    def _names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self._directory) if not name.startswith("."))
        return []

    def _note(self, name: str) -> _Note:
        try:
            return msgspec.json.decode((self._directory / _NOTES / name).read_bytes(), type=_Note)
        except (OSError, msgspec.DecodeError):
            made = (self._directory / name).stat().st_mtime_ns
            return _Note(name[:12], made, made)

    def _noted(self, name: str, description: str) -> None:
        note = self._note(name)
        note.used_ns = int(datetime.now(UTC).timestamp() * 1e9)
        note.uses += 1
        note.description = description[:1000].encode("utf-8", "replace").decode()
        place = self._directory / _NOTES
        place.mkdir(mode=0o700, exist_ok=True)
        atomic_write(place / name, msgspec.json.encode(note), 0o600)


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)
