"""Waking those who follow logs: one inotify instance for all of them, as a user may have only some 128 (inotify(7))."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from weakref import WeakKeyDictionary

from asyncinotify import Inotify, Mask, Watch

_CHANGES = Mask.CREATE | Mask.MODIFY | Mask.MOVED_TO


class LogWatch:
    """Watches directories, each once, for as long as somebody listens."""

    def __init__(self) -> None:
        self._listeners: dict[Path, set[asyncio.Event]] = {}
        self._watches: dict[Path, Watch] = {}
        self._inotify: Inotify | None = None
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def changes(self, directory: Path) -> AsyncIterator[asyncio.Event]:
        """An event that is set at each change of a file in the directory; clear it before looking. Raises OSError."""
        changed = asyncio.Event()
        self._listen(directory, changed)
        try:
            yield changed
        finally:
            self._leave(directory, changed)

    def _listen(self, directory: Path, changed: asyncio.Event) -> None:
        if self._inotify is None:
            self._inotify = Inotify()
            self._task = asyncio.create_task(self._tell(self._inotify), name="log-watch")
        listeners = self._listeners.get(directory)
        if listeners is None:
            try:
                self._watches[directory] = self._inotify.add_watch(directory, _CHANGES)
            except BaseException:
                self._close_if_idle()
                raise
            listeners = self._listeners[directory] = set()
        listeners.add(changed)

    def _leave(self, directory: Path, changed: asyncio.Event) -> None:
        listeners = self._listeners[directory]
        listeners.discard(changed)
        if listeners:
            return
        del self._listeners[directory]
        watch = self._watches.pop(directory)
        if self._inotify is not None:
            # A directory that was removed meanwhile took its watch along.
            with contextlib.suppress(OSError, KeyError, ValueError):
                self._inotify.rm_watch(watch)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._listeners or self._inotify is None or self._task is None:
            return
        self._task.cancel()
        self._inotify.close()
        self._inotify = self._task = None

    async def _tell(self, inotify: Inotify) -> None:
        while True:
            event = await inotify.get()
            if event.watch is None or event.mask & Mask.Q_OVERFLOW:
                told = set().union(*self._listeners.values())
            else:
                told = self._listeners.get(Path(event.watch.path), set())
            for changed in told:
                changed.set()


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LogWatch] = WeakKeyDictionary()


def log_watch() -> LogWatch:
    """The one of the running event loop."""
    loop = asyncio.get_running_loop()
    watch = _by_loop.get(loop)
    if watch is None:
        watch = _by_loop[loop] = LogWatch()
    return watch
