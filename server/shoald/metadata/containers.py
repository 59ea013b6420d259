"""Rows of containers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shoal.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from shoald.metadata.database import Database, Row
from shoald.metadata.leases import HoldKind, Leases
from shoald.model.container import Container

_SELECT = "SELECT record FROM containers"
# Unknown fields are ignored and missing ones take their defaults: an older and a newer daemon read each other's rows.
_DECODER = msgspec.json.Decoder(Container)
_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class Containers:
    """Containers by id, name, id prefix and request."""

    def __init__(self, database: Database, leases: Leases) -> None:
        self._db = database
        self._leases = leases

    def insert(self, container: Container) -> None:
        """Raises AlreadyExists (NAME_IN_USE, metadata `container` and `name`; REQUEST_EXISTS, metadata `container`)."""
        with self._db.transaction():
            self._check_name(container.name, container.id)
            if container.request_id and (other := self.by_request(container.request_id)) is not None:
                raise AlreadyExists(
                    f"this request made container {other.id[:12]} already",
                    reason="REQUEST_EXISTS",
                    metadata={"container": other.id},
                )
            self._db.execute("INSERT INTO containers (id, record) VALUES (?, ?)", [container.id, _encoded(container)])

    def update(self, container_id: str, **fields: Any) -> Container:
        """Change fields by name and return the whole record. Raises NotFound (CONTAINER_NOT_FOUND), AlreadyExists
        (NAME_IN_USE)."""
        with self._db.transaction():
            current = self.get(container_id)
            if current is None:
                raise _missing(container_id)
            changed = msgspec.structs.replace(current, **fields)
            if changed.name != current.name:
                self._check_name(changed.name, container_id)
            if changed.id != container_id:
                raise ValueError("the id of a container can't change")
            self._db.execute("UPDATE containers SET record = ? WHERE id = ?", [_encoded(changed), container_id])
            return changed

    def get(self, container_id: str) -> Container | None:
        """By full id, or None."""
        return _record(self._db.one(f"{_SELECT} WHERE id = ?", [container_id]))

    def find(self, name_or_prefix: str) -> Container:
        """By full id, else by name, else by an unambiguous prefix of the id.

        Raises NotFound (CONTAINER_NOT_FOUND), InvalidArgument (AMBIGUOUS_ID).
        """
        text = name_or_prefix.removeprefix("/")
        found = self.get(text) or _record(self._db.one(f"{_SELECT} WHERE name = ?", [text]))
        if found is not None:
            return found
        if not _PREFIX.fullmatch(text):
            raise _missing(name_or_prefix)
        # "g" sorts after every hex digit: a range, so that the primary key is used.
        rows = self._db.rows(f"{_SELECT} WHERE id >= ? AND id < ? LIMIT 2", [text, text + "g"])
        if len(rows) > 1:
            raise InvalidArgument(
                f"several containers have an id that begins with {text}",
                reason="AMBIGUOUS_ID",
                hint="give more digits of the id, or the name",
            )
        if not rows:
            raise _missing(name_or_prefix)
        return _decoded(rows[0])

    def by_request(self, request_id: str) -> Container | None:
        """The container that this Run made, or None. An empty id names none."""
        return _record(self._db.one(f"{_SELECT} WHERE request_id = ?", [request_id])) if request_id else None

    def list(self) -> Sequence[Container]:
        """All, the newest first."""
        return _newest_first(self._db.rows(_SELECT))

    def using_image(self, image_id: str) -> Sequence[Container]:
        """Those made from an image, the newest first."""
        return _newest_first(self._db.rows(f"{_SELECT} WHERE image_id = ?", [image_id]))

    def names(self) -> set[str]:
        """All names in use."""
        return {row["name"] for row in self._db.rows("SELECT name FROM containers")}

    def snapshot_ids(self) -> set[str]:
        """The writable layers of all containers."""
        rows = self._db.rows("SELECT snapshot_id FROM containers WHERE snapshot_id IS NOT NULL")
        return {row["snapshot_id"] for row in rows}

    def delete(self, container_id: str) -> bool:
        """Delete the row with its address and ports; False when there was none."""
        with self._db.transaction():
            self._db.execute("DELETE FROM addresses WHERE owner = ?", [container_id])
            self._db.execute("DELETE FROM addresses6 WHERE owner = ?", [container_id])
            self._db.execute("DELETE FROM ports WHERE owner = ?", [container_id])
            return self._db.execute("DELETE FROM containers WHERE id = ?", [container_id]).rowcount > 0

    def allocate_userns(self, base: int, size: int, slots: int, lease: str | None = None) -> int:
        """The lowest of the ids base, base + size, ... (`slots` of them) that no container and no lease holds.

        With a lease it is held at once; without, insert the container before the next await. Raises ResourceExhausted
        (NO_FREE_USERNS).
        """
        with self._db.transaction():
            rows = self._db.rows("SELECT userns_base FROM containers WHERE userns_base != 0")
            used = {row["userns_base"] for row in rows} | {int(key) for key in self._leases.held(HoldKind.USERNS)}
            free = next((at for at in range(base, base + slots * size, size) if at not in used), None)
            if free is None:
                raise ResourceExhausted(
                    f"all {slots} user namespaces of this host are in use",
                    reason="NO_FREE_USERNS",
                    hint="remove containers, or raise userns.slots in the daemon's configuration",
                )
            if lease is not None:
                self._leases.hold(lease, HoldKind.USERNS, str(free))
            return free

    def _check_name(self, name: str, container_id: str) -> None:
        row = self._db.one("SELECT id FROM containers WHERE name = ? AND id != ?", [name, container_id])
        if row is not None:
            raise AlreadyExists(
                f"the container name {name!r} is in use by container {row['id'][:12]}",
                reason="NAME_IN_USE",
                hint=f"remove it (`shoal rm {name}`) or choose another name",
                metadata={"container": row["id"], "name": name},
            )


def _record(row: Row | None) -> Container | None:
    return _decoded(row) if row is not None else None


def _decoded(row: Row) -> Container:
    try:
        return _DECODER.decode(row["record"])
    except msgspec.MsgspecError as error:
        raise DataLoss(f"a stored container can't be read: {error}", reason="METADATA_CORRUPT") from error


def _encoded(container: Container) -> str:
    return msgspec.json.encode(container).decode()


def _newest_first(rows: Iterable[Row]) -> Sequence[Container]:
    return sorted((_decoded(row) for row in rows), key=lambda each: (-each.created_at.timestamp(), each.id))


def _missing(name: str) -> NotFound:
    return NotFound(
        f"no such container: {name}",
        reason="CONTAINER_NOT_FOUND",
        hint="`shoal ps -a` lists all",
        metadata={"container": name},
    )
