"""What rows and leases refer to directly: the roots of garbage collection."""

from __future__ import annotations

from shoald.metadata.database import Database

_IN_IMAGES = """
    SELECT snapshot_id AS key FROM containers WHERE snapshot_id IS NOT NULL
    UNION SELECT s.id FROM images i JOIN snapshots s ON s.chain_id = i.chain_id
"""
_SNAPSHOTS = f"""
    {_IN_IMAGES}
    UNION SELECT snapshot_id FROM cache WHERE snapshot_id IS NOT NULL
    UNION SELECT key FROM lease_holds WHERE kind = 'snapshot'
"""
_BLOBS = """
    SELECT digest AS key FROM image_blobs
    UNION SELECT digest FROM index_blobs
    UNION SELECT blob_digest FROM cache WHERE blob_digest IS NOT NULL
    UNION SELECT key FROM lease_holds WHERE kind = 'blob'
"""


class References:
    """Read-only questions over all tables. Ancestors of a needed snapshot are needed too: see Snapshots.children."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def snapshots(self) -> set[str]:
        """Ids that containers, images (their top layers), cache entries and leases name."""
        return {row["key"] for row in self._db.rows(_SNAPSHOTS)}

    def snapshots_in_images_and_containers(self) -> set[str]:
        """Ids that containers and images (their top layers) name."""
        return {row["key"] for row in self._db.rows(_IN_IMAGES)}

    def held_snapshots(self) -> set[str]:
        """Ids that leases name."""
        return {row["key"] for row in self._db.rows("SELECT key FROM lease_holds WHERE kind = 'snapshot'")}

    def blobs(self) -> set[str]:
        """Digests that images, indexes, cache entries and leases name."""
        return {row["key"] for row in self._db.rows(_BLOBS)}

    def has_snapshot(self, snapshot_id: str) -> bool:
        """Whether `snapshots()` has it."""
        return self._db.one(f"SELECT 1 FROM ({_SNAPSHOTS}) WHERE key = ?", [snapshot_id]) is not None

    def has_blob(self, digest: str) -> bool:
        """Whether `blobs()` has it."""
        return self._db.one(f"SELECT 1 FROM ({_BLOBS}) WHERE key = ?", [digest]) is not None
