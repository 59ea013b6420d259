"""Leases: what work in progress needs, kept from the garbage collector until rows refer to it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import StrEnum

from shoal.errors import NotFound
from shoald.metadata.database import Database
from shoald.metadata.rows import now, to_ns

DAY_S = 86400.0


class HoldKind(StrEnum):
    """What a lease can hold: a blob digest, a snapshot id (its ancestors too), the base of a user namespace."""

    BLOB = "blob"
    SNAPSHOT = "snapshot"
    USERNS = "userns"


class Leases:
    """A lease ends with its owner: all are dropped when a daemon starts. The time limit is for owners that forget."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create(self, kind: str, ttl: float = DAY_S) -> str:
        """A new lease for `ttl` seconds; `kind` tells people what for (pull, build, run)."""
        lease, start = secrets.token_hex(16), now()
        expires = start + timedelta(seconds=ttl)
        self._db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", [lease, kind, to_ns(start), to_ns(expires)])
        return lease

    @contextlib.contextmanager
    def lease(self, kind: str, ttl: float = DAY_S) -> Iterator[str]:
        """A lease for the time of the block."""
        lease = self.create(kind, ttl)
        try:
            yield lease
        finally:
            self.release(lease)

    def hold(self, lease: str, kind: HoldKind | str, key: str) -> None:
        """Add to the lease; idempotent. Raises NotFound (LEASE_NOT_FOUND) when it is over."""
        with self._db.transaction():
            if self._db.one("SELECT 1 FROM leases WHERE id = ?", [lease]) is None:
                raise NotFound(f"lease {lease} is over", reason="LEASE_NOT_FOUND")
            self._db.execute("INSERT OR IGNORE INTO lease_holds VALUES (?, ?, ?)", [lease, HoldKind(kind).value, key])

    def release(self, lease: str) -> None:
        """End the lease. Idempotent."""
        self._db.execute("DELETE FROM leases WHERE id = ?", [lease])

    def release_all(self) -> None:
        """End all leases (of a daemon that is gone)."""
        self._db.execute("DELETE FROM leases")

    def expired(self) -> Sequence[str]:
        """Leases whose time is over; they hold until they are released."""
        rows = self._db.rows("SELECT id FROM leases WHERE expires_at <= ? ORDER BY id", [to_ns(now())])
        return [row["id"] for row in rows]

    def held(self, kind: HoldKind | str) -> set[str]:
        """All keys of a kind that any lease holds."""
        rows = self._db.rows("SELECT DISTINCT key FROM lease_holds WHERE kind = ?", [HoldKind(kind).value])
        return {row["key"] for row in rows}
