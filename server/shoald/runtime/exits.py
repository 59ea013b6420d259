"""Exits of containers, from the files that conmon leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

from shoald.runtime.ports import Exit


class ExitWatch:
    """An endless iterator of exits. Watching begins when this is made and ends with `aclose`."""

    def __init__(self, directory: Path, exit_of: Callable[[str], Exit | None]) -> None:
        self._directory = directory
        self._exit_of = exit_of
        self._pending: deque[str] = deque()
        self._inotify = Inotify()
        # conmon writes a temporary file and renames it; a monitor that writes in place is seen as well.
        self._inotify.add_watch(directory, Mask.MOVED_TO | Mask.CLOSE_WRITE)

    def __aiter__(self) -> ExitWatch:
        return self

    async def __anext__(self) -> Exit:
        while True:
            while self._pending:
                container_id = self._pending.popleft()
                found = self._exit_of(container_id) if "." not in container_id else None
                if found is not None:
                    return found
            event = await self._inotify.get()
            if event.mask & Mask.Q_OVERFLOW:
                self._pending.extend(path.name for path in self._directory.iterdir())
            elif event.name is not None:
                self._pending.append(str(event.name))

    async def aclose(self) -> None:
        """Remove the watch."""
        self._inotify.close()
