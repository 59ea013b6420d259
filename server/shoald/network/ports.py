"""Protocol of a network driver. Contract suite: tests/contract/test_network.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from shoald.model.container import ContainerSpec, PortMapping
from shoald.model.network import Membership


class Endpoint(Struct, frozen=True):
    """A container's place in a network. The IPv6 half is empty in a network without."""

    ip_address: str
    prefix_length: int
    gateway: str
    mac_address: str
    network: str = "bridge"
    """Its name."""
    ip6_address: str = ""
    prefix6_length: int = 0
    gateway6: str = ""
    internal: bool = False


class NetworkDriver(Protocol):
    """The bridge networks of a host: addresses, veth pairs, published ports, names.

    Networks, memberships, addresses and published ports are rows in metadata, so that a new daemon knows them. Whoever
    has no row as a container (a step of a build) is in those that `admit` was told, else in the default network.
    """

    async def setup(self) -> None:
        """Make bridges and nft tables as they should be, for all rows that exist; idempotent; called at start and after
        a flush of rules by others was noticed. Also takes up again the reservations of published ports."""

    def admit(self, owner: str, memberships: Sequence[Membership]) -> None:
        """Say before `allocate` which networks it is in that has no row. `release` and a new daemon forget it."""

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """Reserve an address in each of its networks and the host ports (chosen where 0), durable; the first endpoint.

        Raises AlreadyExists (PORT_IN_USE, naming address, port and, where known, the container that has it;
        ADDRESS_IN_USE), ResourceExhausted (NO_FREE_ADDRESS), FailedPrecondition (IPV6_PUBLISH). Idempotent for a
        container."""

    def reserved(self, container_id: str) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """What allocate() gave it, from metadata; (None, ()) when it has nothing."""

    def endpoints(self, container_id: str) -> Sequence[Endpoint]:
        """All that allocate() gave it, in the order in which it joined the networks."""

    async def connect(self, container_id: str, pid: int) -> None:
        """Give the network namespace of `pid` its interfaces eth0, eth1..., addresses and routes, open the published
        ports and tell its names."""

    async def disconnect(self, container_id: str) -> None:
        """Close the published ports and remove the host's ends; the reservation stays. Idempotent."""

    async def release(self, container_id: str) -> None:
        """disconnect, and give addresses and ports back. Idempotent."""

    async def attach(self, container_id: str, pid: int, membership: Membership) -> None:
        """Let a running container join one more network. On failure nothing is left of it."""

    async def detach(self, container_id: str, pid: int, network_id: str) -> None:
        """Let a container leave a network; pid 0: it does not run. Idempotent."""

    async def mend(self, container_id: str, pid: int) -> None:
        """Finish for a running container what an earlier daemon did not come to: interfaces of networks that it is in,
        and no others."""

    async def renamed(self) -> None:
        """A container has another name: let the others of its networks find it by that."""

    async def teardown(self) -> None:
        """Remove bridges, nft tables and the name server (sandbox, tests, uninstall)."""

    def resolv_conf(self, endpoints: Sequence[Endpoint] = ()) -> str:
        """What /etc/resolv.conf of a container with these endpoints should hold (no loopback servers)."""

    def memberships(self, spec: ContainerSpec) -> Sequence[Membership]:
        """What a request means here, with ids of networks; none: no network of ours (host, none, container:...).

        Raises NotFound (NETWORK_NOT_FOUND), InvalidArgument, FailedPrecondition (IPV6_PUBLISH)."""
