"""Addresses and published ports that containers and build steps hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from shoal.errors import AlreadyExists, ResourceExhausted
from shoald.metadata.database import Database
from shoald.model.container import PortMapping

_ANY = ("0.0.0.0", "::")


class Addresses:
    """One address an owner in a subnet. An owner is a container id or the id of a build step."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def allocate(self, owner: str, subnet: IPv4Network) -> IPv4Address:
        """The lowest free host address, without network, gateway (.1) and broadcast; the same again for the same owner.

        Raises ResourceExhausted (NO_FREE_ADDRESS).
        """
        with self._db.transaction():
            if (mine := self.get(owner, subnet)) is not None:
                return mine
            first, last = int(subnet.network_address) + 2, int(subnet.broadcast_address) - 1
            sql = "SELECT address FROM addresses WHERE address BETWEEN ? AND ? ORDER BY address"
            free = first
            for row in self._db.rows(sql, [first, last]):
                if row["address"] != free:
                    break
                free += 1
            if free > last:
                raise ResourceExhausted(
                    f"all addresses of {subnet} are in use",
                    reason="NO_FREE_ADDRESS",
                    hint="remove containers, or give the daemon a larger network.subnet",
                )
            self._db.execute(
                "INSERT INTO addresses (address, subnet, owner) VALUES (?, ?, ?)", [free, str(subnet), owner]
            )
            return IPv4Address(free)

    def get(self, owner: str, subnet: IPv4Network | None = None) -> IPv4Address | None:
        """The owner's address (in this subnet), or None."""
        sql = "SELECT address FROM addresses WHERE owner = ? AND subnet = coalesce(?, subnet) ORDER BY address"
        row = self._db.one(sql, [owner, str(subnet) if subnet is not None else None])
        return IPv4Address(row["address"]) if row is not None else None

    def all(self) -> Mapping[IPv4Address, str]:
        """Address -> owner."""
        rows = self._db.rows("SELECT address, owner FROM addresses ORDER BY address")
        return {IPv4Address(row["address"]): row["owner"] for row in rows}

    def release(self, owner: str) -> None:
        """Give all addresses of the owner back. Idempotent."""
        self._db.execute("DELETE FROM addresses WHERE owner = ?", [owner])


class Ports:
    """Published ports of the host. An owner is a container id or the id of a build step."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def reserve(self, owner: str, host_ip: str, port: int, protocol: str, container_port: int) -> None:
        """Take a port of the host. Two conflict when protocol and port are equal and so are the addresses, or one is
        0.0.0.0 or `::`. Taking the same again for the same container port is fine.

        Raises AlreadyExists (PORT_IN_USE, metadata `container` (the owner), `host_ip`, `port`, `protocol`).
        """
        with self._db.transaction():
            for row in self._db.rows(
                "SELECT p.*, c.name FROM ports p LEFT JOIN containers c ON c.id = p.owner"
                " WHERE protocol = ? AND port = ?",
                [protocol, port],
            ):
                if (row["owner"], row["host_ip"], row["container_port"]) == (owner, host_ip, container_port):
                    return
                if row["host_ip"] == host_ip or row["host_ip"] in _ANY or host_ip in _ANY:
                    raise AlreadyExists(
                        f"port {row['host_ip']}:{port}/{protocol} is in use by container {row['name'] or row['owner']}",
                        reason="PORT_IN_USE",
                        hint="choose another port, or none: -p CONTAINER_PORT takes a free one",
                        metadata={
                            "container": row["owner"],
                            "host_ip": row["host_ip"],
                            "port": str(port),
                            "protocol": protocol,
                        },
                    )
            self._db.execute(
                "INSERT INTO ports (protocol, port, host_ip, container_port, owner) VALUES (?, ?, ?, ?, ?)",
                [protocol, port, host_ip, container_port, owner],
            )

    def of(self, owner: str) -> Sequence[PortMapping]:
        """The owner's ports."""
        rows = self._db.rows("SELECT * FROM ports WHERE owner = ? ORDER BY container_port, protocol, port", [owner])
        return [PortMapping(row["container_port"], row["host_ip"], row["port"], row["protocol"]) for row in rows]

    def all(self) -> Mapping[str, Sequence[PortMapping]]:
        """Owner -> ports."""
        owners = [row["owner"] for row in self._db.rows("SELECT DISTINCT owner FROM ports")]
        return {owner: self.of(owner) for owner in owners}

    def release(self, owner: str) -> None:
        """Give all ports of the owner back. Idempotent."""
        self._db.execute("DELETE FROM ports WHERE owner = ?", [owner])
