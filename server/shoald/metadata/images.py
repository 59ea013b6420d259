"""Rows of images, their names and the blobs they need."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shoal.errors import InvalidArgument, NotFound
from shoal.reference import Reference
from shoald.metadata.database import Database, Row
from shoald.metadata.rows import Codec
from shoald.model.image import Image

_CODEC = Codec(Image, skip=frozenset({"tags", "repo_digests", "part_of"}))
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_ID_OR_MANIFEST = re.compile(r"sha(?:256|512):[0-9a-f]{64,128}")


class Images:
    """Images by id, tag, digest reference and id prefix."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, image: Image, layers: Sequence[str]) -> Image:
        """Insert or replace by id; `layers` are the digests of the compressed layer blobs, lowest first.

        Names in the record are added (a tag that another image has moves); names that the image has already stay.
        """
        columns = ", ".join(f"{column} = excluded.{column}" for column in _CODEC.columns if column != "id")
        with self._db.transaction():
            self._db.execute(
                f"INSERT INTO images ({_CODEC.names}) VALUES ({_CODEC.marks}) ON CONFLICT (id) DO UPDATE SET {columns}",
                _CODEC.values(image),
            )
            self._db.execute("DELETE FROM image_blobs WHERE image_id = ?", [image.id])
            for position, digest in enumerate((image.manifest_digest, image.id, *layers)):
                self._db.execute("INSERT INTO image_blobs VALUES (?, ?, ?)", [image.id, position, digest])
            for reference in image.tags:
                self._name(reference, image.id, "tag")
            for reference in image.repo_digests:
                self._name(reference, image.id, "digest")
            stored = self.get(image.id)
            assert stored is not None
            return stored

    def get(self, image_id: str) -> Image | None:
        """By full id ("sha256:<hex>"), or None."""
        row = self._db.one(f"SELECT {_CODEC.names} FROM images WHERE id = ?", [image_id])
        return self._with_names([row])[0] if row else None

    def list(self) -> Sequence[Image]:
        """All, the newest first."""
        return self._with_names(self._db.rows(f"SELECT {_CODEC.names} FROM images ORDER BY created_at DESC, id"))

    def find(self, name: str) -> Image:
        """What a person means by `name`: a tag or digest reference (canonical or as Docker shortens them, `busybox`),
        an id, or an unambiguous prefix of an id's hex digits; in this order, so that a tag beats a prefix.

        Raises NotFound (IMAGE_NOT_FOUND), InvalidArgument (AMBIGUOUS_ID).
        """
        image = self._by_id(name) or self._by_name(name) or self._by_prefix(name)
        if image is None:
            raise NotFound(
                f"no such image: {name}",
                reason="IMAGE_NOT_FOUND",
                hint="`shoal images` lists what the host has; `shoal pull` gets more",
                metadata={"image": name},
            )
        return image

    def tag(self, reference: str, image_id: str) -> str | None:
        """Point a canonical tag reference at an image; returns the id of the image that had it, if it was another.

        Raises NotFound (IMAGE_NOT_FOUND).
        """
        return self._name(reference, image_id, "tag")

    def untag(self, reference: str) -> bool:
        """Take a tag away; False when there was none."""
        return self._unname(reference, "tag")

    def add_repo_digest(self, reference: str, image_id: str) -> None:
        """Let a canonical reference with a manifest's digest name an image. Raises NotFound (IMAGE_NOT_FOUND)."""
        self._name(reference, image_id, "digest")

    def remove_repo_digest(self, reference: str) -> bool:
        """Take a digest reference away; False when there was none."""
        return self._unname(reference, "digest")

    def delete(self, image_id: str) -> bool:
        """Delete the image with all its names, and the indexes that have it; False when there was none."""
        with self._db.transaction():
            self._db.execute(
                "DELETE FROM indexes WHERE digest IN (SELECT index_digest FROM index_images WHERE image_id = ?)",
                [image_id],
            )
            return self._db.execute("DELETE FROM images WHERE id = ?", [image_id]).rowcount > 0

    def blob_digests(self, image_id: str | None = None) -> Sequence[str]:
        """Manifest, configuration and layers, the lowest first, of one image; of all images for None."""
        if image_id is None:
            return [row["digest"] for row in self._db.rows("SELECT DISTINCT digest FROM image_blobs")]
        rows = self._db.rows("SELECT digest FROM image_blobs WHERE image_id = ? ORDER BY position", [image_id])
        return [row["digest"] for row in rows]

    def layer_digests(self, image_id: str) -> Sequence[str]:
        """The compressed layer blobs, the lowest first."""
        return self.blob_digests(image_id)[2:]

    def _by_id(self, name: str) -> Image | None:
        if not _ID_OR_MANIFEST.fullmatch(name):
            return None
        sql = (
            f"SELECT {_CODEC.names} FROM images WHERE id = ? OR manifest_digest = ?"
            " OR id = (SELECT image_id FROM indexes WHERE digest = ?) ORDER BY id = ? DESC LIMIT 1"
        )
        row = self._db.one(sql, [name, name, name, name])
        return self._with_names([row])[0] if row else None

    def _by_name(self, name: str) -> Image | None:
        for reference in (name, _normalised(name)):
            row = self._db.one("SELECT image_id FROM image_names WHERE reference = ?", [reference])
            if row is not None:
                return self.get(row["image_id"])
        return None

    def _by_prefix(self, name: str) -> Image | None:
        match = _ID.fullmatch(name)
        if match is None:
            return None
        low = f"sha256:{match[1]}"
        # "g" sorts after every hex digit: a range, so that the primary key is used.
        sql = f"SELECT {_CODEC.names} FROM images WHERE id >= ? AND id < ? LIMIT 2"
        rows = self._db.rows(sql, [low, low + "g"])
        if len(rows) > 1:
            raise InvalidArgument(
                f"several images have an id that begins with {name}",
                reason="AMBIGUOUS_ID",
                hint="give more digits of the id",
            )
        return self._with_names(rows)[0] if rows else None

    def _with_names(self, rows: Sequence[Row]) -> Sequence[Image]:
        where, parameters = ("WHERE image_id = ?", [rows[0]["id"]] * 2) if len(rows) == 1 else ("", [])
        names: dict[tuple[str, str], tuple[str, ...]] = {}
        sql = (
            f"SELECT image_id, kind, reference FROM image_names {where}"
            " UNION SELECT image_id, 'index', reference FROM index_images JOIN index_names USING (index_digest)"
            f" {where} ORDER BY reference"
        )
        for row in self._db.rows(sql, parameters):
            key = (row["image_id"], row["kind"])
            names[key] = (*names.get(key, ()), row["reference"])
        return [
            _CODEC.record(
                row,
                tags=names.get((row["id"], "tag"), ()),
                repo_digests=names.get((row["id"], "digest"), ()),
                part_of=names.get((row["id"], "index"), ()),
            )
            for row in rows
        ]

    def _name(self, reference: str, image_id: str, kind: str) -> str | None:
        with self._db.transaction():
            if self._db.one("SELECT 1 FROM images WHERE id = ?", [image_id]) is None:
                raise NotFound(f"no such image: {image_id}", reason="IMAGE_NOT_FOUND", metadata={"image": image_id})
            row = self._db.one("SELECT image_id FROM image_names WHERE reference = ?", [reference])
            self._unindex(reference)
            self._db.execute(
                "INSERT INTO image_names VALUES (?, ?, ?)"
                " ON CONFLICT (reference) DO UPDATE SET image_id = excluded.image_id",
                [reference, image_id, kind],
            )
            return row["image_id"] if row is not None and row["image_id"] != image_id else None

    def _unname(self, reference: str, kind: str) -> bool:
        with self._db.transaction():
            self._unindex(reference)
            sql = "DELETE FROM image_names WHERE reference = ? AND kind = ?"
            return self._db.execute(sql, [reference, kind]).rowcount > 0

    def _unindex(self, reference: str) -> None:
        """The name means no index any more; one that loses its last name is gone."""
        self._db.execute(
            "DELETE FROM indexes WHERE digest = (SELECT index_digest FROM index_names WHERE reference = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM index_names WHERE index_digest = digest AND reference != ?1)",
            [reference],
        )
        self._db.execute("DELETE FROM index_names WHERE reference = ?", [reference])


def _normalised(name: str) -> str:
    """The canonical form as the daemon stores it; `name` itself when it is no reference."""
    try:
        return str(Reference.parse(name).docker_ref())
    except InvalidArgument:
        return name
