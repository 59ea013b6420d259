"""Events: stored first, then told to those who follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from shoal.errors import OutOfRange
from shoald.engine.ports import EventFilter
from shoald.metadata.store import Metadata
from shoald.model.event import Event

BATCH = 500


class EventLog:
    """The host's events, with a cursor that survives restarts."""

    def __init__(self, md: Metadata) -> None:
        self._md = md
        self._changed = asyncio.Event()

    def publish(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """Store an event and wake followers."""
        self._md.events.append(Event(type_, action, actor_id, datetime.now(UTC), attributes))
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, wanted: EventFilter) -> AsyncIterator[Event]:
        """From the store, then live, until `until`.

        Raises OutOfRange: CURSOR_EXPIRED when events after the cursor are no longer kept, also while they are followed
        too slowly; CURSOR_UNKNOWN for a cursor that was never given.
        """
        cursor = self._start(wanted)
        while True:
            changed = self._changed
            while batch := self._md.events.after(cursor, BATCH):
                self._check_kept(cursor)
                for event in batch:
                    cursor = event.cursor
                    if wanted.until is not None and event.time > wanted.until:
                        return
                    if matches(wanted, event):
                        yield event
            if not await self._wait(changed, wanted.until):
                return

    def _start(self, wanted: EventFilter) -> int:
        last = self._md.events.last_cursor()
        if wanted.cursor:
            if not 0 < wanted.cursor <= last:
                raise OutOfRange(f"there is no event {wanted.cursor} (the last is {last})", reason="CURSOR_UNKNOWN")
            self._check_kept(wanted.cursor)
            return wanted.cursor
        if wanted.since is None:
            return last
        first = self._md.events.first_cursor()
        return first - 1 if first else last

    def _check_kept(self, cursor: int) -> None:
        first = self._md.events.first_cursor()
        if first and cursor < first - 1:
            raise OutOfRange(
                f"events after {cursor} are no longer kept (the oldest is {first})",
                reason="CURSOR_EXPIRED",
                hint="list anew what there is, then follow from now on",
            )

    @staticmethod
    async def _wait(changed: asyncio.Event, until: datetime | None) -> bool:
        if until is None:
            await changed.wait()
            return True
        left = (until - datetime.now(UTC)).total_seconds()
        if left <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), left)
        return True


def matches(wanted: EventFilter, event: Event) -> bool:
    """Whether an event is wanted."""
    if wanted.since is not None and event.time < wanted.since:
        return False
    if wanted.types and event.type not in wanted.types:
        return False
    # As Docker: "health_status" stands for "health_status: healthy" too.
    if wanted.actions and not {event.action, event.action.partition(":")[0]} & set(wanted.actions):
        return False
    if wanted.actors and not any(
        event.actor_id.startswith(a) or event.attributes.get("name") == a for a in wanted.actors
    ):
        return False
    return all(
        key in event.attributes and (not value or event.attributes[key] == value) for key, value in wanted.labels
    )
