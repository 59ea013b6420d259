"""Rows of networks that users defined, and of containers' memberships in networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shoal.errors import AlreadyExists, DataLoss
from shoald.metadata.database import Database, Row
from shoald.model.network import Membership, Network

_NETWORK = msgspec.json.Decoder(Network)
_MEMBERSHIP = msgspec.json.Decoder(Membership)


class Networks:
    """Networks by id and name. The default one has no row."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, network: Network) -> None:
        """Raises AlreadyExists (NETWORK_EXISTS)."""
        with self._db.transaction():
            if self._db.one("SELECT id FROM networks WHERE name = ?", [network.name]) is not None:
                raise AlreadyExists(
                    f"network {network.name} exists already",
                    reason="NETWORK_EXISTS",
                    hint="choose another name, or remove it first",
                )
            record = msgspec.json.encode(network).decode()
            self._db.execute(
                "INSERT INTO networks (id, name, record) VALUES (?, ?, ?)", [network.id, network.name, record]
            )

    def get(self, network_id: str) -> Network | None:
        """By id, or None."""
        row = self._db.one("SELECT record FROM networks WHERE id = ?", [network_id])
        return _network(row) if row is not None else None

    def list(self) -> Sequence[Network]:
        """All, by name."""
        return [_network(row) for row in self._db.rows("SELECT record FROM networks ORDER BY name")]

    def delete(self, network_id: str) -> bool:
        """Delete the row; False when there was none."""
        return self._db.execute("DELETE FROM networks WHERE id = ?", [network_id]).rowcount > 0


class Memberships:
    """Which container is in which networks, in the order in which it joined them; they go with the container's row."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def put(self, container_id: str, membership: Membership) -> None:
        """Join, as the last one; one that exists is replaced in its place."""
        with self._db.transaction():
            row = self._db.one(
                "SELECT position FROM memberships WHERE container_id = ? AND network = ?",
                [container_id, membership.network],
            )
            if row is None:
                row = self._db.one(
                    "SELECT coalesce(max(position), -1) + 1 AS position FROM memberships WHERE container_id = ?",
                    [container_id],
                )
            assert row is not None
            record = msgspec.json.encode(membership).decode()
            self._db.execute(
                "INSERT OR REPLACE INTO memberships (container_id, network, position, record) VALUES (?, ?, ?, ?)",
                [container_id, membership.network, row["position"], record],
            )

    def of(self, container_id: str) -> Sequence[Membership]:
        """A container's."""
        sql = "SELECT record FROM memberships WHERE container_id = ? ORDER BY position"
        return [_membership(row) for row in self._db.rows(sql, [container_id])]

    def all(self) -> Mapping[str, Sequence[Membership]]:
        """Container id -> its memberships."""
        found: dict[str, list[Membership]] = {}
        for row in self._db.rows("SELECT container_id, record FROM memberships ORDER BY container_id, position"):
            found.setdefault(row["container_id"], []).append(_membership(row))
        return found

    def members(self, network_id: str) -> Mapping[str, Membership]:
        """Container id -> its membership in this network."""
        sql = "SELECT container_id, record FROM memberships WHERE network = ? ORDER BY container_id"
        return {row["container_id"]: _membership(row) for row in self._db.rows(sql, [network_id])}

    def remove(self, container_id: str, network_id: str) -> bool:
        """Leave; False when it was no member."""
        sql = "DELETE FROM memberships WHERE container_id = ? AND network = ?"
        return self._db.execute(sql, [container_id, network_id]).rowcount > 0


def _network(row: Row) -> Network:
    try:
        return _NETWORK.decode(row["record"])
    except msgspec.MsgspecError as error:
        raise DataLoss(f"a stored network can't be read: {error}", reason="METADATA_CORRUPT") from error


def _membership(row: Row) -> Membership:
    try:
        return _MEMBERSHIP.decode(row["record"])
    except msgspec.MsgspecError as error:
        raise DataLoss(f"a stored membership can't be read: {error}", reason="METADATA_CORRUPT") from error
