"""Rows of image indexes: which images each has, the blobs it needs, and its names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.errors import NotFound
from shoald.metadata.database import Database, Row
from shoald.metadata.images import Images
from shoald.model.image import IndexRecord

_COLUMNS = "digest, media_type, size_bytes, image_id"


class Indexes:
    """Indexes by digest and by tag.

    One whose last name is taken away, or gets another meaning, is gone; so is one that loses an image. One that never
    had a name stays as long as its images.
    """

    def __init__(self, database: Database, images: Images) -> None:
        self._db = database
        self._images = images

    def put(self, index: IndexRecord, blobs: Iterable[str], names: Sequence[str]) -> None:
        """Insert, or replace by digest. `blobs` are digests: of the index itself, and of all that it names.
        `names` (canonical tags) mean it from now on. Raises NotFound (IMAGE_NOT_FOUND) for an image that is gone."""
        with self._db.transaction():
            for image_id in (index.image_id, *index.images):
                if self._db.one("SELECT 1 FROM images WHERE id = ?", [image_id]) is None:
                    raise NotFound(f"no such image: {image_id}", reason="IMAGE_NOT_FOUND", metadata={"image": image_id})
            self._db.execute(
                f"INSERT INTO indexes ({_COLUMNS}) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET image_id = excluded.image_id",
                [index.digest, index.media_type, index.size_bytes, index.image_id],
            )
            for position, image_id in enumerate(index.images):
                self._db.execute(
                    "INSERT OR REPLACE INTO index_images VALUES (?, ?, ?)", [index.digest, position, image_id]
                )
            for digest in blobs:
                self._db.execute("INSERT OR IGNORE INTO index_blobs VALUES (?, ?)", [index.digest, digest])
            for name in names:
                self.name(name, index.digest)

    def name(self, reference: str, digest: str) -> None:
        """Let a canonical tag mean an index. Raises NotFound (INDEX_NOT_FOUND)."""
        with self._db.transaction():
            index = self.get(digest)
            if index is None:
                raise NotFound(f"no such index: {digest}", reason="INDEX_NOT_FOUND", metadata={"image": digest})
            if (held := self.named(reference)) is not None and held.digest == digest:
                return
            self._images.tag(reference, index.image_id)
            self._db.execute("INSERT INTO index_names VALUES (?, ?)", [reference, digest])

    def delete(self, digest: str) -> None:
        """Forget an index; names that mean it become names of its image here."""
        self._db.execute("DELETE FROM indexes WHERE digest = ?", [digest])

    def get(self, digest: str) -> IndexRecord | None:
        """By digest, or None."""
        row = self._db.one(f"SELECT {_COLUMNS} FROM indexes WHERE digest = ?", [digest])
        return self._record(row) if row else None

    def named(self, reference: str) -> IndexRecord | None:
        """What a canonical tag means, when that is an index."""
        row = self._db.one("SELECT index_digest FROM index_names WHERE reference = ?", [reference])
        return self.get(row["index_digest"]) if row else None

    def of_image(self, image_id: str) -> Sequence[str]:
        """Digests of the indexes that have an image."""
        rows = self._db.rows("SELECT DISTINCT index_digest FROM index_images WHERE image_id = ?", [image_id])
        return [row["index_digest"] for row in rows]

    def names(self, digest: str) -> Sequence[str]:
        """The tags that mean an index."""
        rows = self._db.rows("SELECT reference FROM index_names WHERE index_digest = ? ORDER BY reference", [digest])
        return [row["reference"] for row in rows]

    def blob_digests(self, digest: str) -> Sequence[str]:
        """The index itself and all that it names."""
        rows = self._db.rows("SELECT digest FROM index_blobs WHERE index_digest = ?", [digest])
        return [row["digest"] for row in rows]

    def _record(self, row: Row) -> IndexRecord:
        sql = "SELECT image_id FROM index_images WHERE index_digest = ? ORDER BY position"
        images = tuple(each["image_id"] for each in self._db.rows(sql, [row["digest"]]))
        return IndexRecord(row["digest"], row["media_type"], row["size_bytes"], row["image_id"], images)
