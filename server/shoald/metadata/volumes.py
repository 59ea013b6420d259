"""Rows of named volumes."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.errors import AlreadyExists
from shoald.metadata.database import Database
from shoald.metadata.rows import Codec
from shoald.model.snapshot import Volume

_CODEC = Codec(Volume)


class Volumes:
    """Volumes by name; their users are found in the containers' specs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, volume: Volume) -> None:
        """Raises AlreadyExists (VOLUME_EXISTS)."""
        with self._db.transaction():
            if self.get(volume.name) is not None:
                raise AlreadyExists(f"volume {volume.name} exists already", reason="VOLUME_EXISTS")
            self._db.execute(f"INSERT INTO volumes ({_CODEC.names}) VALUES ({_CODEC.marks})", _CODEC.values(volume))

    def get(self, name: str) -> Volume | None:
        """The volume, or None."""
        row = self._db.one(f"SELECT {_CODEC.names} FROM volumes WHERE name = ?", [name])
        return _CODEC.record(row) if row is not None else None

    def list(self) -> Sequence[Volume]:
        """All, by name."""
        return [_CODEC.record(row) for row in self._db.rows(f"SELECT {_CODEC.names} FROM volumes ORDER BY name")]

    def delete(self, name: str) -> bool:
        """Delete the row; False when there was none."""
        return self._db.execute("DELETE FROM volumes WHERE name = ?", [name]).rowcount > 0

    def users(self, name: str) -> Sequence[str]:
        """Ids of the containers that mount it, running or not."""
        rows = self._db.rows(
            "SELECT DISTINCT c.id FROM containers c, json_each(c.record, '$.spec.mounts') m"
            " WHERE json_extract(m.value, '$.kind') = 'volume' AND json_extract(m.value, '$.source') = ? ORDER BY c.id",
            [name],
        )
        return [row["id"] for row in rows]
