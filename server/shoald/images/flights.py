"""Work that several may wait for, done once: it ends early only when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from shoald.host.blocking import to_end
from shoald.model.image import Progress

T = TypeVar("T")
Listener = Callable[[Progress], None]


class Flight(Generic[T]):
    """One piece of shared work; `report` reaches all who listen, and the last record those who come later."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._last: Progress | None = None
        self.task: asyncio.Task[T] | None = None
        self.users = 0

    def report(self, record: Progress) -> None:
        """Tell everybody."""
        self._last = record
        for listener in tuple(self._listeners):
            listener(record)

    async def result(self, listener: Listener) -> T:
        """Wait for the result; raises what the work raises. Cancelling this does not cancel the work."""
        assert self.task is not None
        if self._last is not None:
            listener(self._last)
        self._listeners.append(listener)
        try:
            return await asyncio.shield(self.task)
        finally:
            self._listeners.remove(listener)


class Flights(Generic[T]):
    """Flights by key."""

    def __init__(self, land: Callable[[T], Awaitable[None]]) -> None:
        """`land` gives back what a finished flight holds, after its last user has left."""
        self._land = land
        self._flying: dict[str, Flight[T]] = {}

    @contextlib.asynccontextmanager
    async def join(self, key: str, work: Callable[[Flight[T]], Awaitable[T]]) -> AsyncIterator[Flight[T]]:
        """Take part in the flight `key`, starting it when there is none. A failed one is not joined again."""
        flight = self._flying.get(key)
        if flight is None:
            flight = self._flying[key] = Flight()
            flight.task = asyncio.create_task(_run(work, flight), name=f"flight {key}")
            flight.task.add_done_callback(lambda task, flight=flight: self._ended(key, flight, task))  # type: ignore[misc]
        flight.users += 1
        try:
            yield flight
        finally:
            flight.users -= 1
            if not flight.users:
                self._forget(key, flight)
                await to_end(self._end(flight))

    def _ended(self, key: str, flight: Flight[T], task: asyncio.Task[T]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(key, flight)

    def _forget(self, key: str, flight: Flight[T]) -> None:
        if self._flying.get(key) is flight:
            del self._flying[key]

    async def _end(self, flight: Flight[T]) -> None:
        task = flight.task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await self._land(task.result())


async def _run(work: Callable[[Flight[T]], Awaitable[T]], flight: Flight[T]) -> T:
    return await work(flight)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Wait for all, side by side; at the first error the others are cancelled, awaited, and it is raised."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
