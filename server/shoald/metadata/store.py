"""The open database with its repositories."""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from shoald.metadata.blobs import Blobs
from shoald.metadata.cache import Cache
from shoald.metadata.containers import Containers
from shoald.metadata.database import Database
from shoald.metadata.endpoints import Addresses, Addresses6, Ports
from shoald.metadata.events import Events
from shoald.metadata.files import Files
from shoald.metadata.images import Images
from shoald.metadata.indexes import Indexes
from shoald.metadata.leases import Leases
from shoald.metadata.networks import Memberships, Networks
from shoald.metadata.references import References
from shoald.metadata.snapshots import Snapshots
from shoald.metadata.volumes import Volumes


class Meta:
    """Facts about this daemon's state."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('host_id', ?)", [secrets.token_hex(16)])

    @property
    def host_id(self) -> str:
        """32 hex digits that this root directory keeps for life."""
        value = self.get("host_id")
        assert value is not None
        return value

    def get(self, key: str) -> str | None:
        """A value, or None."""
        row = self._db.one("SELECT value FROM meta WHERE key = ?", [key])
        return str(row["value"]) if row is not None else None

    def set(self, key: str, value: str) -> None:
        """Insert or replace."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])


class Metadata:
    """The daemon's truth. Synchronous (a commit takes some 0.04 ms), for the one thread that opened it.

    All methods may raise ResourceExhausted (DISK_FULL), Unavailable (METADATA_BUSY), DataLoss (METADATA_CORRUPT).
    Durability: see `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self.meta = Meta(database)
        self.blobs = Blobs(database)
        self.leases = Leases(database)
        self.snapshots = Snapshots(database)
        self.images = Images(database)
        self.indexes = Indexes(database, self.images)
        self.containers = Containers(database, self.leases)
        self.addresses = Addresses(database)
        self.addresses6 = Addresses6(database)
        self.ports = Ports(database)
        self.networks = Networks(database)
        self.memberships = Memberships(database)
        self.cache = Cache(database)
        self.references = References(database)
        self.volumes = Volumes(database)
        self.events = Events(database)
        self.files = Files(database)

    @classmethod
    def open(cls, path: Path | str) -> Metadata:
        """Open or create the database, bring its schema up to date and end the leases of daemons that are gone.

        Raises FailedPrecondition (ROOT_IN_USE, naming the pid; SCHEMA_TOO_NEW; METADATA_READ_ONLY).
        """
        database = Database(Path(path))
        try:
            metadata = cls(database)
            metadata.leases.release_all()
        except BaseException:
            database.close()
            raise
        return metadata

    def transaction(self) -> AbstractContextManager[None]:
        """Group writes: all or none. Re-entrant. Never await inside (an Internal error tells)."""
        return self._db.transaction()

    def flush(self) -> None:
        """Make all commits so far safe from a power cut too. Call it in a thread: it waits for the disk."""
        self._db.flush()

    def close(self) -> None:
        """Close and unlock."""
        self._db.close()

    def __enter__(self) -> Metadata:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
