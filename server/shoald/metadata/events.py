"""The journal of events: the last 10,000, by cursor."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoald.metadata.database import Database
from shoald.metadata.rows import Codec
from shoald.model.event import Event

KEPT = 10_000

_CODEC = Codec(Event)
_FRESH = Codec(Event, skip=frozenset({"cursor"}))


class Events:
    """Events with increasing cursors, which are never given twice."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def append(self, event: Event) -> Event:
        """Store it and return it with its cursor; the oldest beyond KEPT go."""
        with self._db.transaction():
            cursor = self._db.execute(
                f"INSERT INTO events ({_FRESH.names}) VALUES ({_FRESH.marks})", _FRESH.values(event)
            ).lastrowid
            assert cursor is not None
            self._db.execute("DELETE FROM events WHERE cursor <= ?", [cursor - KEPT])
            return msgspec.structs.replace(event, cursor=cursor)

    def after(self, cursor: int, limit: int = 1000) -> Sequence[Event]:
        """At most `limit` events with a greater cursor, in order."""
        sql = f"SELECT {_CODEC.names} FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?"
        return [_CODEC.record(row) for row in self._db.rows(sql, [cursor, limit])]

    def first_cursor(self) -> int:
        """The oldest that is kept; 0 when there are none."""
        row = self._db.one("SELECT coalesce(min(cursor), 0) FROM events")
        return int(row[0]) if row is not None else 0

    def last_cursor(self) -> int:
        """The last that was ever given; 0 when there was none."""
        row = self._db.one("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(row[0]) if row is not None else 0
