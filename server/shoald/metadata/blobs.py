"""What is known of blobs beside their bytes. The content store says which exist."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from shoald.metadata.database import Database


class Blob(Struct, frozen=True):
    """Size in bytes and media type of a blob, as the manifest that named it says."""

    digest: str
    size_bytes: int
    media_type: str


class Blobs:
    """Blobs by digest."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, digest: str, size: int, media_type: str) -> None:
        """Insert or replace."""
        self._db.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", [digest, size, media_type])

    def get(self, digest: str) -> Blob | None:
        """The blob, or None."""
        row = self._db.one("SELECT * FROM blobs WHERE digest = ?", [digest])
        return Blob(**dict(row)) if row is not None else None

    def delete(self, digest: str) -> bool:
        """Delete; False when there was none."""
        return self._db.execute("DELETE FROM blobs WHERE digest = ?", [digest]).rowcount > 0

    def all(self) -> Sequence[Blob]:
        """All, by digest."""
        return [Blob(**dict(row)) for row in self._db.rows("SELECT * FROM blobs ORDER BY digest")]
