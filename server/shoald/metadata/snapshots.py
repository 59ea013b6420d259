"""Rows of layers on disk."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound
from shoald.metadata.database import Database
from shoald.metadata.rows import Codec
from shoald.model.snapshot import Snapshot

_CODEC = Codec(Snapshot)
# A container on its way in or out gives its snapshot up; any other keeps it (see `delete`).
_GIVES_UP = "('creating', 'removing', 'dead')"


class Snapshots:
    """The tree of snapshots. A parent outlives its children, a snapshot its container."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, snapshot: Snapshot) -> None:
        """Raises NotFound (SNAPSHOT_NOT_FOUND) for the parent, AlreadyExists for the id or chain id."""
        with self._db.transaction():
            if snapshot.parent_id is not None and self.get(snapshot.parent_id) is None:
                raise _missing(snapshot.parent_id)
            self._db.execute(f"INSERT INTO snapshots ({_CODEC.names}) VALUES ({_CODEC.marks})", _CODEC.values(snapshot))

    def get(self, snapshot_id: str) -> Snapshot | None:
        """The snapshot, or None."""
        row = self._db.one(f"SELECT {_CODEC.names} FROM snapshots WHERE id = ?", [snapshot_id])
        return _CODEC.record(row) if row else None

    def by_chain(self, chain_id: str) -> Snapshot | None:
        """The committed snapshot of an image layer's chain id, or None."""
        row = self._db.one(f"SELECT {_CODEC.names} FROM snapshots WHERE chain_id = ?", [chain_id])
        return _CODEC.record(row) if row else None

    def commit(
        self, snapshot_id: str, chain_id: str | None = None, diff_id: str | None = None, size: int | None = None
    ) -> Snapshot:
        """Mark it committed; None leaves the size as it is.

        Raises NotFound (SNAPSHOT_NOT_FOUND), AlreadyExists (CHAIN_EXISTS) when another one has the chain id,
        FailedPrecondition (SNAPSHOT_NOT_COMMITTED) on top of a layer that is not committed itself.
        """
        with self._db.transaction():
            snapshot = self.get(snapshot_id)
            if snapshot is None:
                raise _missing(snapshot_id)
            self._check_committed(snapshot.parent_id)
            other = self.by_chain(chain_id) if chain_id is not None else None
            if other is not None and other.id != snapshot_id:
                raise AlreadyExists(f"layer {chain_id} exists as snapshot {other.id}", reason="CHAIN_EXISTS")
            self._db.execute(
                "UPDATE snapshots SET committed = 1, chain_id = ?, diff_id = ?, size_bytes = coalesce(?, size_bytes)"
                " WHERE id = ?",
                [chain_id, diff_id, size, snapshot_id],
            )
            committed = self.get(snapshot_id)
            assert committed is not None
            return committed

    def adopt(self, snapshot_id: str, parent_id: str | None) -> None:
        """Put an active snapshot on a committed one (None: on nothing): for layers made before those below them.

        Raises NotFound (SNAPSHOT_NOT_FOUND), FailedPrecondition (SNAPSHOT_COMMITTED, or
        SNAPSHOT_NOT_COMMITTED for the parent).
        """
        with self._db.transaction():
            snapshot = self.get(snapshot_id)
            if snapshot is None:
                raise _missing(snapshot_id)
            if snapshot.committed:
                raise FailedPrecondition(f"snapshot {snapshot_id} is committed", reason="SNAPSHOT_COMMITTED")
            # A committed layer has committed ancestors only, hence never this one: no cycles.
            self._check_committed(parent_id)
            self._db.execute("UPDATE snapshots SET parent_id = ? WHERE id = ?", [parent_id, snapshot_id])

    def _check_committed(self, snapshot_id: str | None) -> None:
        if snapshot_id is None:
            return
        snapshot = self.get(snapshot_id)
        if snapshot is None:
            raise _missing(snapshot_id)
        if not snapshot.committed:
            raise FailedPrecondition(f"snapshot {snapshot_id} is not committed", reason="SNAPSHOT_NOT_COMMITTED")

    def delete(self, snapshot_id: str) -> bool:
        """Delete the row (and build cache entries that name it); False when there was none.

        Raises FailedPrecondition (SNAPSHOT_HAS_CHILDREN; SNAPSHOT_IN_USE, naming the container). A container that is
        being created or removed, or is dead, does not count as a user: its `snapshot_id` becomes empty.
        """
        with self._db.transaction():
            if self.children(snapshot_id):
                raise FailedPrecondition(
                    f"snapshot {snapshot_id} has layers on top of it", reason="SNAPSHOT_HAS_CHILDREN"
                )
            self._db.execute(
                "UPDATE containers SET record = json_set(record, '$.snapshot_id', '')"
                f" WHERE snapshot_id = ? AND state IN {_GIVES_UP}",
                [snapshot_id],
            )
            user = self._db.one("SELECT id, name FROM containers WHERE snapshot_id = ?", [snapshot_id])
            if user is not None:
                raise FailedPrecondition(
                    f"snapshot {snapshot_id} is the file system of container {user['name']}",
                    reason="SNAPSHOT_IN_USE",
                    hint="remove the container first",
                    metadata={"container": user["id"]},
                )
            return self._db.execute("DELETE FROM snapshots WHERE id = ?", [snapshot_id]).rowcount > 0

    def children(self, snapshot_id: str) -> int:
        """How many snapshots have it as their parent."""
        row = self._db.one("SELECT count(*) FROM snapshots WHERE parent_id = ?", [snapshot_id])
        return int(row[0]) if row else 0

    def ids(self) -> set[str]:
        """The ids of all."""
        return {row["id"] for row in self._db.rows("SELECT id FROM snapshots")}

    def chain(self, snapshot_id: str) -> list[Snapshot]:
        """The snapshot and its ancestors, top first. Raises NotFound (SNAPSHOT_NOT_FOUND)."""
        rows = self._db.rows(
            f"""WITH RECURSIVE up (depth, next) AS (
                    VALUES (0, ?) UNION ALL SELECT depth + 1, parent_id FROM up JOIN snapshots ON id = next
                ) SELECT {_CODEC.names} FROM up JOIN snapshots ON id = next ORDER BY depth""",
            [snapshot_id],
        )
        if not rows:
            raise _missing(snapshot_id)
        return [_CODEC.record(row) for row in rows]

    def all(self) -> Sequence[Snapshot]:
        """Every snapshot, the oldest first."""
        rows = self._db.rows(f"SELECT {_CODEC.names} FROM snapshots ORDER BY created_at")
        return [_CODEC.record(row) for row in rows]


def _missing(snapshot_id: str) -> NotFound:
    return NotFound(f"no such snapshot: {snapshot_id}", reason="SNAPSHOT_NOT_FOUND")
