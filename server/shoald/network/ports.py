"""Protocol of a network driver. Contract suite: tests/contract/test_network.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from shoald.model.container import PortMapping


class Endpoint(Struct, frozen=True):
    """A container's place in a network."""

    ip_address: str
    prefix_length: int
    gateway: str
    mac_address: str


class NetworkDriver(Protocol):
    """The bridge network of a host: addresses, veth pairs, published ports.

    Addresses and published ports are rows in metadata, keyed by container id, so that a new daemon knows them.
    """

    async def setup(self) -> None:
        """Make bridge and nft table as they should be, for all rows that exist; idempotent; called at start and after a
        flush of rules by others was noticed. Also takes up again the reservations of published ports."""

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint, tuple[PortMapping, ...]]:
        """Reserve an address and the host ports (chosen where 0), durable. Raises AlreadyExists (PORT_IN_USE, naming
        address, port and, where known, the container that has it), ResourceExhausted (NO_FREE_ADDRESS). Idempotent for
        a container."""

    def reserved(self, container_id: str) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """What allocate() gave it, from metadata; (None, ()) when it has nothing."""

    async def connect(self, container_id: str, pid: int) -> None:
        """Give the network namespace of `pid` its interface eth0, address and route, and open the published ports."""

    async def disconnect(self, container_id: str) -> None:
        """Close the published ports and remove the host's end; the reservation stays. Idempotent."""

    async def release(self, container_id: str) -> None:
        """disconnect, and give address and ports back. Idempotent."""

    async def teardown(self) -> None:
        """Remove bridge and nft table (sandbox, tests, uninstall)."""

    def resolv_conf(self) -> str:
        """What /etc/resolv.conf of a container on this network should hold (no loopback servers)."""
