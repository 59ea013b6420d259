"""The build cache: results of steps by their content keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from shoald.metadata.database import Database
from shoald.metadata.rows import Codec, now, to_ns


class CacheEntry(Struct, frozen=True):
    """The result of a build step."""

    key: str
    snapshot_id: str | None
    """The committed layer; None for a step that changes no files."""
    description: str
    """The step as people know it."""
    diff_id: str | None
    blob_digest: str | None
    """The layer's compressed form, when it was made."""
    data: str
    """What else the builder wants to find again."""
    size_bytes: int
    created_at: datetime
    last_used_at: datetime
    use_count: int


_CODEC = Codec(CacheEntry)
_SELECT = f"SELECT {_CODEC.names} FROM cache"


class Cache:
    """Entries by key. An entry goes with its snapshot."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, key: str) -> CacheEntry | None:
        """The entry, or None; see `touch`."""
        row = self._db.one(f"SELECT {_CODEC.names} FROM cache WHERE key = ?", [key])
        return _CODEC.record(row) if row is not None else None

    def put(
        self,
        key: str,
        snapshot_id: str | None,
        *,
        description: str = "",
        diff_id: str | None = None,
        blob_digest: str | None = None,
        data: str = "",
        size_bytes: int = 0,
    ) -> CacheEntry:
        """Insert or replace. Raises FailedPrecondition (ROW_IN_USE) for a snapshot that is gone."""
        time = now()
        entry = CacheEntry(key, snapshot_id, description, diff_id, blob_digest, data, size_bytes, time, time, 0)
        self._db.execute(f"INSERT OR REPLACE INTO cache ({_CODEC.names}) VALUES ({_CODEC.marks})", _CODEC.values(entry))
        return entry

    def set_blob(self, key: str, *, diff_id: str, blob_digest: str) -> None:
        """Note the layer's compressed form."""
        self._db.execute("UPDATE cache SET diff_id = ?, blob_digest = ? WHERE key = ?", [diff_id, blob_digest, key])

    def touch(self, key: str) -> None:
        """Count a use now."""
        sql = "UPDATE cache SET last_used_at = ?, use_count = use_count + 1 WHERE key = ?"
        self._db.execute(sql, [to_ns(now()), key])

    def delete(self, key: str) -> bool:
        """Delete the entry, not its snapshot (the collector's work); False when there was none."""
        return self._db.execute("DELETE FROM cache WHERE key = ?", [key]).rowcount > 0

    def all(self) -> Sequence[CacheEntry]:
        """All, the least recently used first."""
        return [_CODEC.record(row) for row in self._db.rows(f"{_SELECT} ORDER BY last_used_at, key")]
