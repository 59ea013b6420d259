"""Rows of the clients' files: blobs, and trees made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from shoald.metadata.database import Database
from shoald.metadata.rows import now, to_ns

_CHUNK = 500


class _Aged:
    """Rows of one table: a digest, its size and when it was last of use."""

    def __init__(self, database: Database, table: str) -> None:
        self._db = database
        self._table = table

    def put(self, digest: str, size_bytes: int) -> None:
        """Insert it, or note that it is of use."""
        self._db.execute(
            f"INSERT INTO {self._table} VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at",
            [digest, size_bytes, to_ns(now())],
        )

    def put_all(self, blobs: Iterable[tuple[str, int]]) -> None:
        """The same for several, at once."""
        with self._db.transaction():
            for digest, size_bytes in blobs:
                self.put(digest, size_bytes)

    def touch(self, digests: Iterable[str]) -> dict[str, int]:
        """Note that these are of use; those that there are, with their sizes."""
        wanted = list(dict.fromkeys(digests))
        found: dict[str, int] = {}
        moment = to_ns(now())
        with self._db.transaction():
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ", ".join("?" * len(part))
                rows = self._db.rows(f"SELECT digest, size_bytes FROM {self._table} WHERE digest IN ({marks})", part)
                found.update((row["digest"], int(row["size_bytes"])) for row in rows)
                self._db.execute(f"UPDATE {self._table} SET used_at = ? WHERE digest IN ({marks})", [moment, *part])
        return found

    def size(self, digest: str) -> int | None:
        """Bytes, or None when there is no such row."""
        row = self._db.one(f"SELECT size_bytes FROM {self._table} WHERE digest = ?", [digest])
        return int(row["size_bytes"]) if row is not None else None

    def all(self) -> set[str]:
        """Every digest."""
        return {row["digest"] for row in self._db.rows(f"SELECT digest FROM {self._table}")}

    def unused_since(self, seconds: float) -> Sequence[str]:
        """Those that were last of use so long ago, or longer."""
        before = to_ns(now() - timedelta(seconds=seconds))
        rows = self._db.rows(f"SELECT digest FROM {self._table} WHERE used_at <= ? ORDER BY digest", [before])
        return [row["digest"] for row in rows]

    def delete(self, digest: str) -> None:
        """Delete the row. Idempotent."""
        self._db.execute(f"DELETE FROM {self._table} WHERE digest = ?", [digest])


class Files:
    """Blobs and trees; which trees are in use is found in the containers' specs."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.blobs = _Aged(database, "file_blobs")
        self.trees = _Aged(database, "file_trees")

    def mounted(self) -> set[str]:
        """The trees that containers name, running or not."""
        rows = self._db.rows(
            "SELECT DISTINCT json_extract(m.value, '$.content_digest') AS digest"
            " FROM containers c, json_each(c.record, '$.spec.mounts') m"
            " WHERE json_extract(m.value, '$.kind') = 'content'"
        )
        return {row["digest"] for row in rows}
