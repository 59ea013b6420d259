"""Waking those who follow logs: one inotify instance for all of them, as a user may have only some 128 (inotify(7))."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

from asyncinotify import Inotify, Mask, Watch

_CHANGES = Mask.CREATE | Mask.MODIFY | Mask.MOVED_TO


class LogWatch:
    """Watches directories, each once, for as long as somebody listens.

    The instance stays open: the kernel takes 10 ms to close one. It needs no task, so that nothing outlives the loop.
    """

    def __init__(self) -> None:
        self._listeners: dict[Path, set[asyncio.Event]] = {}
        self._watches: dict[Path, Watch] = {}
        self._inotify = Inotify(sync_timeout=0)
        asyncio.get_running_loop().add_reader(self._inotify.fd, self._tell)

    @contextlib.contextmanager
    def changes(self, directory: Path) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a file in the directory; clear it before looking. Raises OSError."""
        changed = asyncio.Event()
        if directory not in self._listeners:
            self._watches[directory] = self._inotify.add_watch(directory, _CHANGES)
            self._listeners[directory] = set()
        self._listeners[directory].add(changed)
        try:
            yield changed
        finally:
            self._leave(directory, changed)

    def close(self) -> None:
        """Free the descriptor, after the end of the loop."""
        self._inotify.close()

    def _leave(self, directory: Path, changed: asyncio.Event) -> None:
        listeners = self._listeners[directory]
        listeners.discard(changed)
        if not listeners:
            del self._listeners[directory]
            # A directory that was removed meanwhile took its watch along.
            with contextlib.suppress(OSError, KeyError, ValueError):
                self._inotify.rm_watch(self._watches.pop(directory))

    def _tell(self) -> None:
        while (event := self._inotify.sync_get()) is not None:
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
        for ended in [each for each in _by_loop if each.is_closed()]:
            _by_loop.pop(ended).close()
        watch = _by_loop[loop] = LogWatch()
    return watch
