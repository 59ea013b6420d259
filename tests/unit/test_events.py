"""Following the host's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shoal.errors import OutOfRange
from shoald.engine.events import EventLog, matches
from shoald.engine.ports import EventFilter
from shoald.metadata import Metadata
from shoald.metadata import events as journal
from shoald.model.event import Event

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


def fill(md: Metadata, count: int) -> None:
    for number in range(count):
        md.events.append(Event("container", "start", f"c{number}", START + timedelta(seconds=number)))


async def take(log: EventLog, wanted: EventFilter, count: int) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(10):
        async for event in log.follow(wanted):
            found.append(event.actor_id)
            if len(found) == count:
                break
    return found


async def everything(log: EventLog, wanted: EventFilter) -> list[str]:
    async with asyncio.timeout(10):
        return [event.actor_id async for event in log.follow(wanted)]


UNTIL = START + timedelta(seconds=100)


class TestFollow:
    async def test_from_now_on(self, md: Metadata) -> None:
        fill(md, 3)
        log = EventLog(md)
        following = asyncio.create_task(take(log, EventFilter(), 2))
        await asyncio.sleep(0)
        for name in ("new", "newer"):
            log.publish("container", "start", name, {})
        assert await following == ["new", "newer"]

    @pytest.mark.parametrize("cursor", [1, 2, 3])
    async def test_a_cursor_gives_the_rest_and_goes_on(self, md: Metadata, cursor: int) -> None:
        fill(md, 3)
        log = EventLog(md)
        following = asyncio.create_task(take(log, EventFilter(cursor=cursor), 4 - cursor))
        await asyncio.sleep(0)
        log.publish("container", "start", "new", {})
        assert await following == [*[f"c{n}" for n in range(cursor, 3)], "new"]

    async def test_resuming_all_the_time_misses_nothing(self, md: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shoald.engine.events.BATCH", 2)
        log = EventLog(md)
        fill(md, 1)
        seen: list[str] = []
        cursor = 1

        async def resume() -> None:
            nonlocal cursor
            while len(seen) < 20:
                async for event in log.follow(EventFilter(cursor=cursor)):
                    seen.append(event.actor_id)
                    cursor = event.cursor
                    if len(seen) % 3 == 0 or len(seen) == 20:
                        break

        following = asyncio.create_task(resume())
        for number in range(20):
            log.publish("container", "start", f"n{number}", {})
            if number % 4 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(following, 10)
        assert seen == [f"n{number}" for number in range(20)]

    async def test_since_and_until(self, md: Metadata) -> None:
        fill(md, 5)
        log = EventLog(md)
        at = [START + timedelta(seconds=number) for number in range(5)]
        assert await everything(log, EventFilter(since=at[1], until=at[3])) == ["c1", "c2", "c3"]
        assert await everything(log, EventFilter(since=at[0], until=START - timedelta(1))) == []
        assert await everything(log, EventFilter(until=at[3])) == []  # from now on, and that is over

    async def test_until_ends_a_quiet_stream(self, md: Metadata) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.05)
        assert await everything(EventLog(md), EventFilter(until=soon)) == []

    async def test_events_survive_the_daemon(self, md: Metadata) -> None:
        EventLog(md).publish("image", "pull", "i", {"name": "busybox"})
        assert await everything(EventLog(md), EventFilter(since=START, until=datetime.now(UTC))) == ["i"]

    @pytest.mark.parametrize("cursor", [-1, 4, 1 << 40])
    async def test_a_cursor_that_was_never_given(self, md: Metadata, cursor: int) -> None:
        fill(md, 3)
        with pytest.raises(OutOfRange) as caught:
            await take(EventLog(md), EventFilter(cursor=cursor), 1)
        assert caught.value.reason == "CURSOR_UNKNOWN"

    async def test_a_cursor_that_is_no_longer_kept(self, md: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journal, "KEPT", 3)
        fill(md, 10)  # 8, 9 and 10 are kept
        log = EventLog(md)
        with pytest.raises(OutOfRange) as caught:
            await take(log, EventFilter(cursor=6), 1)
        assert caught.value.reason == "CURSOR_EXPIRED"
        assert await take(log, EventFilter(cursor=7), 3) == ["c7", "c8", "c9"]
        assert await take(log, EventFilter(since=START), 3) == ["c7", "c8", "c9"]

    async def test_a_follower_that_is_too_slow_is_told(self, md: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journal, "KEPT", 3)
        monkeypatch.setattr("shoald.engine.events.BATCH", 1)
        fill(md, 3)
        follower = EventLog(md).follow(EventFilter(cursor=1))
        assert (await anext(follower)).actor_id == "c1"
        fill(md, 10)
        with pytest.raises(OutOfRange) as caught:
            await anext(follower)
        assert caught.value.reason == "CURSOR_EXPIRED"


@pytest.mark.parametrize(
    ("wanted", "hit"),
    [
        (EventFilter(), True),
        (EventFilter(types=("image", "container")), True),
        (EventFilter(types=("image",)), False),
        (EventFilter(actions=("die",)), True),
        (EventFilter(actions=("start",)), False),
        (EventFilter(actors=("abc",)), True),
        (EventFilter(actors=("web",)), True),
        (EventFilter(actors=("we",)), False),
        (EventFilter(labels=(("app", "x"),)), True),
        (EventFilter(labels=(("app", ""),)), True),
        (EventFilter(labels=(("app", "y"),)), False),
        (EventFilter(labels=(("app", "x"), ("none", ""))), False),
        (EventFilter(since=START), True),
        (EventFilter(since=START + timedelta(seconds=1)), False),
        (EventFilter(types=("container",), actions=("start",)), False),
    ],
)
def test_filters(wanted: EventFilter, hit: bool) -> None:
    event = Event("container", "die", "abcdef", START, {"name": "web", "app": "x"})
    assert matches(wanted, event) is hit


def test_the_first_word_of_an_action_stands_for_all_that_begin_with_it() -> None:
    event = Event("container", "health_status: healthy", "c", datetime.now(UTC))
    for actions, wanted in ((("health_status",), True), (("health_status: healthy",), True), (("health",), False)):
        assert matches(EventFilter(actions=actions), event) == wanted
