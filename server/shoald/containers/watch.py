"""Waking those who wait for a container to change, and remembering how recent runs ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from weakref import WeakValueDictionary

from msgspec import Struct

REMEMBERED_EXITS = 4096


class RunEnd(Struct, frozen=True):
    """The last exit of a container; `number` counts its exits since the daemon started."""

    number: int
    exit_code: int
    oom_killed: bool
    error: str = ""


class Watch:
    """One event a container; each change replaces it, so that every waiter wakes once and looks again."""

    def __init__(self) -> None:
        # Weak: an event that nobody waits for any more need not be kept.
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._ends: OrderedDict[str, RunEnd] = OrderedDict()

    def event(self, container_id: str) -> asyncio.Event:
        """Set at the next change of the container. Take it BEFORE looking at the state."""
        event = self._events.get(container_id)
        if event is None:
            event = self._events[container_id] = asyncio.Event()
        return event

    def changed(self, container_id: str) -> None:
        """Wake all who wait."""
        event = self._events.pop(container_id, None)
        if event is not None:
            event.set()

    def ended(self, container_id: str, exit_code: int, oom_killed: bool, error: str = "") -> None:
        """Remember an exit."""
        number = self.exits(container_id) + 1
        self._ends[container_id] = RunEnd(number, exit_code, oom_killed, error)
        self._ends.move_to_end(container_id)
        while len(self._ends) > REMEMBERED_EXITS:
            self._ends.popitem(last=False)

    def last_end(self, container_id: str) -> RunEnd | None:
        """How the last run ended, if this daemon saw it."""
        return self._ends.get(container_id)

    def exits(self, container_id: str) -> int:
        """How many exits this daemon saw."""
        end = self._ends.get(container_id)
        return end.number if end else 0


class Locks:
    """A lock for each key, kept only while somebody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def get(self, key: str) -> _KeyLock:
        """`async with locks.get(key):`"""
        return _KeyLock(self._locks, key)


class _KeyLock:
    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], key: str) -> None:
        self._all, self._key = locks, key

    async def __aenter__(self) -> None:
        lock, users = self._all.get(self._key, (None, 0))
        lock = lock or asyncio.Lock()
        self._all[self._key] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._all[self._key][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._all[self._key]
        if users == 1:
            del self._all[self._key]
        else:
            self._all[self._key] = (lock, users - 1)
