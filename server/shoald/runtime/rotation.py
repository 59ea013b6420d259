"""Keeps logs within their size: renames a log that is full, has the monitor open it anew, deletes the oldest.

No line is lost: the monitor goes on writing to the renamed file until it opens the new one, and readers go from file to
file by inode. conmon's own --log-size-max would throw away what the file holds.

An idle container costs nothing: a log is first watched for one write (inotify, one shot), and then looked at, the more
often the faster it grows, until it grows no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from asyncinotify import Inotify, Mask
from msgspec import Struct

from shoald.runtime import logchain

log = structlog.get_logger(__name__)

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.02, 1.0
FASTEST_WRITER = 128 << 20
"""Bytes a second that a container is thought to write before more is known."""
REOPEN_S = 5.0
_LOST_SIGNAL_S = 1.0
_FREE_BYTES, _FREE_FILES = 1 << 20, 16
UNREAD_MOST = 1 << 30
"""What readers may lag behind: so many bytes beyond its size a log is kept for them."""
IN_FLIGHT = 32 << 20
"""What may be on its way to a reader, who comes back without it when the link is cut."""
CUT_OFF_S = 60.0
"""For so long files stay for a reader who was cut off: it is about to come back with a cursor."""
YOUNG_S = 5.0
"""For so long a run that nobody reads yet is kept whole, within the same limit: who made it may be about to attach."""


class Rotation(Struct, frozen=True):
    """When and how far a log is cut. `max_bytes` 0: never."""

    max_bytes: int = 20 << 20
    max_files: int = 5


@dataclass(slots=True)
class _Watched:
    path: Path
    rotation: Rotation
    young_until: float
    size: int = 0
    looked_at: float = 0.0
    task: asyncio.Task[None] | None = None


Reopen = Callable[[str], Awaitable[bool]]


class LogRotator:
    """Rotates the logs of all containers that run. `reopen` asks a container's monitor; False: it is gone."""

    def __init__(self, reopen: Reopen) -> None:
        self._reopen = reopen
        self._watched: dict[str, _Watched] = {}
        self._inotify: Inotify | None = None
        self._ids: dict[Path, str] = {}
        self._readers: dict[str, list[Callable[[], int]]] = {}
        self._listener: asyncio.Task[None] | None = None

    def watch(self, container_id: str, path: Path, rotation: Rotation) -> None:
        """Keep this log within its size from now on. Call when the monitor has opened it."""
        self.forget(container_id)
        if not rotation.max_bytes:
            return
        watched = self._watched[container_id] = _Watched(path, rotation, time.monotonic() + YOUNG_S)
        self._ids[path] = container_id
        watched.task = asyncio.create_task(self._look(container_id, watched))

    def forget(self, container_id: str) -> None:
        """The container has ended."""
        watched = self._watched.pop(container_id, None)
        if watched is None:
            return
        self._ids.pop(watched.path, None)
        if watched.task is not None:
            watched.task.cancel()

    @contextlib.contextmanager
    def reading(self, container_id: str, sequence: Callable[[], int]) -> Iterator[None]:
        """Someone reads, who needs the files from number `sequence()` on: they stay, up to UNREAD_MOST; also for a
        while when the block is left by an exception, which means that the reader was cut off."""
        self._readers.setdefault(container_id, []).append(sequence)
        if container_id in self._watched:
            self._watched[container_id].young_until = 0.0
        try:
            yield
        except BaseException:
            last = sequence()

            def comes_back() -> int:
                return last

            self._readers[container_id].append(comes_back)
            asyncio.get_running_loop().call_later(CUT_OFF_S, self._gone, container_id, comes_back)
            raise
        finally:
            self._gone(container_id, sequence)

    def _gone(self, container_id: str, sequence: Callable[[], int]) -> None:
        readers = self._readers[container_id]
        readers.remove(sequence)
        if not readers:
            del self._readers[container_id]

    async def close(self) -> None:
        """Look no more. Another daemon goes on."""
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        tasks += [self._listener] if self._listener is not None else []
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._inotify is not None:
            self._inotify.close()

    # --- when to look -----------------------------------------------------------------------------------------------

    async def _look(self, container_id: str, watched: _Watched) -> None:
        """Until it grows no more."""
        try:
            await self._finish_earlier(container_id, watched)
            watched.size, watched.looked_at = -1, time.monotonic()
            while True:
                size = _size(watched.path)
                if size >= watched.rotation.max_bytes:
                    await self._rotate(container_id, watched)
                    size = _size(watched.path)
                elif size == watched.size and self._sleep_until_written(container_id, watched, size):
                    return
                await asyncio.sleep(_pause(watched, size))
        except OSError as error:
            log.error("log_not_rotated", container=container_id, error=str(error))
        finally:
            if watched.task is asyncio.current_task():
                watched.task = None

    def _sleep_until_written(self, container_id: str, watched: _Watched, size: int) -> bool:
        """Have inotify wake us; False when it was written to already, or there is nothing to watch."""
        if self._inotify is None:
            self._inotify = Inotify()
            self._listener = asyncio.create_task(self._listen(self._inotify))
        try:
            self._inotify.add_watch(watched.path, Mask.MODIFY | Mask.ONESHOT)
        except FileNotFoundError:
            return False
        return _size(watched.path) == size

    async def _listen(self, inotify: Inotify) -> None:
        while True:
            event = await inotify.get()
            overflow = bool(event.mask & Mask.Q_OVERFLOW)
            path = event.watch.path if event.watch is not None else None
            for container_id in list(self._watched) if overflow else [self._ids.get(Path(path))] if path else []:
                watched = self._watched.get(container_id) if container_id else None
                if container_id and watched is not None and watched.task is None:
                    watched.task = asyncio.create_task(self._look(container_id, watched))

    # --- a rotation -------------------------------------------------------------------------------------------------

    async def _finish_earlier(self, container_id: str, watched: _Watched) -> None:
        """A daemon that was killed in the middle of a rotation may not have come to ask the monitor."""
        if watched.path.exists() or not logchain.rotated(watched.path):
            return
        # Asked twice, the monitor would throw away what it wrote between the two.
        if not await _appears(watched.path, _LOST_SIGNAL_S) and await self._reopen(container_id):
            await _appears(watched.path, REOPEN_S)

    async def _rotate(self, container_id: str, watched: _Watched) -> None:
        if not _room(watched.path.parent):
            return  # a monitor that can't make its file would end
        older = logchain.rotated(watched.path)
        number = older[-1][0] + 1 if older else 1
        os.rename(watched.path, logchain.rotated_path(watched.path, number))
        if not await self._reopen(container_id):
            return
        if not await _appears(watched.path, REOPEN_S):
            log.warning("log_not_reopened", container=container_id)
            return
        self._drop(container_id, watched)

    def _drop(self, container_id: str, watched: _Watched) -> None:
        """Delete the oldest. One that was just complete always stays: readers may not have come to its end."""
        older = logchain.rotated(watched.path)
        keep = max(watched.rotation.max_files - 1, 1)
        for number, path in older[: len(older) - keep]:
            if self._needed(container_id, watched, number):
                return
            path.unlink(missing_ok=True)

    def _needed(self, container_id: str, watched: _Watched, number: int) -> bool:
        young = time.monotonic() < watched.young_until
        slack = IN_FLIGHT // watched.rotation.max_bytes + 1 if IN_FLIGHT else 0
        if not young and all(sequence() - slack > number for sequence in self._readers.get(container_id, ())):
            return False
        most = UNREAD_MOST + watched.rotation.max_bytes * watched.rotation.max_files
        return sum(_size(path) for _, path in logchain.rotated(watched.path)) < most


def _pause(watched: _Watched, size: int) -> float:
    """Seconds until the next look: half the time that the writer would need to fill it."""
    now = time.monotonic()
    rate = float(FASTEST_WRITER)
    if 0 <= watched.size <= size and now > watched.looked_at:
        rate = max((size - watched.size) / (now - watched.looked_at) * 2, 1.0)
    watched.size, watched.looked_at = size, now
    left = max(watched.rotation.max_bytes - size, 0)
    return min(max(left / rate / 2, SHORTEST_LOOK_S), max(left / FASTEST_WRITER * 2, SHORTEST_LOOK_S), LONGEST_LOOK_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _room(directory: Path) -> bool:
    free = os.statvfs(directory)
    return free.f_bavail * free.f_frsize >= _FREE_BYTES and (not free.f_files or free.f_favail >= _FREE_FILES)


async def _appears(path: Path, seconds: float) -> bool:
    """Whether it is there within that time."""
    pause, until = 0.001, time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True
