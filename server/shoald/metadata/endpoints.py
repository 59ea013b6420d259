"""Addresses and published ports that containers and build steps hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from shoal.errors import AlreadyExists, ResourceExhausted
from shoald.metadata.database import Database, Row
from shoald.model.container import PortMapping

_ANY = ("0.0.0.0", "::")
Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network


class Addresses:
    """One IPv4 address an owner in a subnet. An owner is a container id or the id of a build step."""

    table = "addresses"

    def __init__(self, database: Database) -> None:
        self._db = database

    def allocate(
        self,
        owner: str,
        subnet: IPv4Network,
        *,
        wanted: IPv4Address | None = None,
        within: IPv4Network | None = None,
        avoid: Collection[Address] = (),
    ) -> IPv4Address:
        """The lowest free host address, without network, first (.1) and broadcast; the same again for the same owner.

        `wanted`: exactly this one. `within`: chosen from a part of the subnet. `avoid`: never chosen. Raises
        ResourceExhausted (NO_FREE_ADDRESS), AlreadyExists (ADDRESS_IN_USE).
        """
        with self._db.transaction():
            mine = self.get(owner, subnet)
            if mine is not None and wanted in (None, mine):
                return mine
            if wanted is None:
                first, last = int(subnet.network_address) + 2, int(subnet.broadcast_address) - 1
                if within is not None:
                    first = max(first, int(within.network_address))
                    last = min(last, int(within.broadcast_address))
                wanted = IPv4Address(self._free(first, last, avoid, subnet))
            self._take(owner, wanted, subnet)
            return wanted

    def _free(self, first: int, last: int, avoid: Collection[Address], subnet: Subnet) -> int:
        sql = f"SELECT address FROM {self.table} WHERE address BETWEEN ? AND ? ORDER BY address"
        rows = self._db.rows(sql, [self._stored(first), self._stored(last)])
        taken = {self._number(row["address"]) for row in rows} | {int(address) for address in avoid}
        free = first
        while free in taken:
            free += 1
        if free > last:
            raise ResourceExhausted(
                f"all addresses of {subnet} are in use",
                reason="NO_FREE_ADDRESS",
                hint="remove containers, or use a network with a larger subnet",
            )
        return free

    def _take(self, owner: str, address: Address, subnet: Subnet) -> None:
        stored = self._stored(int(address))
        row = self._db.one(
            f"SELECT a.owner, c.name FROM {self.table} a LEFT JOIN containers c ON c.id = a.owner WHERE address = ?",
            [stored],
        )
        if row is not None and row["owner"] != owner:
            raise AlreadyExists(
                f"address {address} is in use by container {row['name'] or row['owner'][:12]}",
                reason="ADDRESS_IN_USE",
                hint="choose another address, or none",
                metadata={"container": row["owner"], "address": str(address)},
            )
        self._db.execute(f"DELETE FROM {self.table} WHERE owner = ? AND subnet = ?", [owner, str(subnet)])
        self._db.execute(
            f"INSERT INTO {self.table} (address, subnet, owner) VALUES (?, ?, ?)", [stored, str(subnet), owner]
        )

    def _stored(self, number: int) -> int | bytes:
        return number

    def _number(self, stored: int) -> int:
        return stored

    def get(self, owner: str, subnet: IPv4Network | None = None) -> IPv4Address | None:
        """The owner's address (in this subnet), or None."""
        row = self._row(owner, subnet)
        return IPv4Address(row["address"]) if row is not None else None

    def _row(self, owner: str, subnet: Subnet | None) -> Row | None:
        sql = f"SELECT address FROM {self.table} WHERE owner = ? AND subnet = coalesce(?, subnet) ORDER BY address"
        return self._db.one(sql, [owner, str(subnet) if subnet is not None else None])

    def all(self) -> Mapping[Address, str]:
        """Address -> owner."""
        rows = self._db.rows(f"SELECT address, owner FROM {self.table} ORDER BY address")
        return {ip_address(row["address"]): row["owner"] for row in rows}

    def owners(self, subnet: Subnet) -> Sequence[str]:
        """Who has an address in a subnet, by address."""
        sql = f"SELECT owner FROM {self.table} WHERE subnet = ? ORDER BY address"
        return [row["owner"] for row in self._db.rows(sql, [str(subnet)])]

    def subnets(self, owner: str) -> Sequence[str]:
        """The subnets in which an owner has an address."""
        return [row["subnet"] for row in self._db.rows(f"SELECT subnet FROM {self.table} WHERE owner = ?", [owner])]

    def release(self, owner: str, subnet: Subnet | None = None) -> None:
        """Give all addresses of the owner (in this subnet) back. Idempotent."""
        self._db.execute(
            f"DELETE FROM {self.table} WHERE owner = ? AND subnet = coalesce(?, subnet)",
            [owner, str(subnet) if subnet is not None else None],
        )


class Addresses6(Addresses):
    """The same for IPv6."""

    table = "addresses6"

    def allocate(  # type: ignore[override]
        self,
        owner: str,
        subnet: IPv6Network,
        *,
        wanted: IPv6Address | None = None,
        avoid: Collection[Address] = (),
    ) -> IPv6Address:
        """See Addresses.allocate."""
        with self._db.transaction():
            mine = self.get(owner, subnet)
            if mine is not None and wanted in (None, mine):
                return mine
            if wanted is None:
                first = int(subnet.network_address) + 2
                wanted = IPv6Address(self._free(first, int(subnet.broadcast_address), avoid, subnet))
            self._take(owner, wanted, subnet)
            return wanted

    def _stored(self, number: int) -> int | bytes:
        return number.to_bytes(16, "big")

    def _number(self, stored: int | bytes) -> int:
        assert isinstance(stored, bytes)
        return int.from_bytes(stored, "big")

    def get(self, owner: str, subnet: IPv6Network | None = None) -> IPv6Address | None:  # type: ignore[override]
        """The owner's address (in this subnet), or None."""
        row = self._row(owner, subnet)
        return IPv6Address(row["address"]) if row is not None else None


class Ports:
    """Published ports of the host. An owner is a container id or the id of a build step."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def reserve(self, owner: str, host_ip: str, port: int, protocol: str, container_port: int) -> None:
        """Take a port of the host. Two conflict when protocol and port are equal and so are the addresses, or one of
        the same family is 0.0.0.0 or `::`. Taking the same again for the same container port is fine.

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
                if (":" in row["host_ip"]) != (":" in host_ip):
                    continue
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
