"""Work that several share."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from shoal.errors import NotFound
from shoald.images.flights import Flight, Flights, all_of
from shoald.images.progress import Meter
from shoald.model.image import Progress, ProgressPhase


def _ignore(_: Progress) -> None:
    pass


class _Work:
    """Counts what happens to a piece of work."""

    def __init__(self) -> None:
        self.started = self.landed = self.cancelled = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def land(self, _: str) -> None:
        self.landed += 1

    async def __call__(self, flight: Flight[str]) -> str:
        self.started += 1
        flight.report(Progress("p", ProgressPhase.WAITING))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return "done"


async def _use(flights: Flights[str], work: _Work, seen: list[Progress] | None = None) -> str:
    async with flights.join("k", work) as flight:
        return await flight.result(seen.append if seen is not None else _ignore)


async def test_done_once_for_all() -> None:
    work = _Work()
    flights = Flights(work.land)
    late: list[Progress] = []
    users = [asyncio.create_task(_use(flights, work)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    users.append(asyncio.create_task(_use(flights, work, late)))
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*users) == ["done"] * 6
    assert (work.started, work.landed, work.cancelled) == (1, 1, 0)
    assert [record.phase for record in late] == [ProgressPhase.WAITING]
    # Nobody holds it any more: the next one starts anew.
    assert await _use(flights, work) == "done"
    assert work.started == 2


async def test_ends_only_with_its_last_user() -> None:
    work = _Work()
    flights = Flights(work.land)
    users = [asyncio.create_task(_use(flights, work)) for _ in range(2)]
    await asyncio.sleep(0.01)
    users[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await users[0]
    assert work.cancelled == 0
    users[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await users[1]
    assert (work.cancelled, work.landed) == (1, 0)


async def test_failure_reaches_all_and_is_not_kept() -> None:
    work = _Work()
    work.error = NotFound("gone")
    flights = Flights(work.land)
    users = [asyncio.create_task(_use(flights, work)) for _ in range(3)]
    await asyncio.sleep(0.01)
    work.go.set()
    for result in await asyncio.gather(*users, return_exceptions=True):
        assert isinstance(result, NotFound)
    work.error = None
    assert await _use(flights, work) == "done"
    assert (work.started, work.landed) == (2, 1)


async def test_landing_is_not_cut_short() -> None:
    landing, landed = asyncio.Event(), asyncio.Event()

    async def land(_: str) -> None:
        landing.set()
        await asyncio.sleep(0.05)
        landed.set()

    work = _Work()
    work.go.set()
    user = asyncio.create_task(_use(Flights(land), work))
    await landing.wait()
    user.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await user
    assert landed.is_set()


async def test_first_error_ends_the_others() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def bad() -> None:
        await asyncio.sleep(0)
        raise NotFound("x")

    with pytest.raises(NotFound):
        await all_of([slow(), bad()])
    assert ended == ["slow"]


def test_meter_is_quiet() -> None:
    seen: list[Progress] = []
    meter = Meter("p", 1000, seen.append)
    meter.phase(ProgressPhase.DOWNLOADING)
    for done in range(1000):
        meter.advance(done)
    meter.finished()
    assert seen[0] == Progress("p", ProgressPhase.DOWNLOADING, 0, 1000)
    assert seen[-1] == Progress("p", ProgressPhase.DONE, 1000, 1000)
    assert len(seen) < 20
