"""Use cases of networks, as the API calls them. See shoald.engine.ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shoald.model.container import Membership
from shoald.model.network import Member, Network, NetworkRequest
from shoald.network.ports import Endpoint


class NetworkUses(Protocol):
    """What can be done with networks."""

    def list(self, labels: tuple[tuple[str, str], ...] = (), name: str = "") -> Sequence[Network]:
        """By name; also the default one, host and none."""

    def inspect(self, name: str) -> tuple[Network, Sequence[Member]]:
        """The network, and the containers in it."""

    def names(self) -> Mapping[str, Sequence[str]]:
        """Container id -> names of its networks."""

    def endpoints(self, container_id: str) -> Sequence[tuple[Endpoint, Membership]]:
        """Of a container, in the order in which it joined; addresses are empty where it has none now."""

    async def create(self, request_id: str, request: NetworkRequest) -> tuple[Network, Sequence[str]]:
        """The network, and warnings. A retry with the same id finds the network that the first call made."""

    async def remove(self, name: str) -> None:
        """Delete."""

    async def prune(self, labels: tuple[tuple[str, str], ...] = ()) -> Sequence[str]:
        """Names of removed networks."""

    async def connect(self, container: str, membership: Membership) -> None:
        """Put a container into a network, which `membership` names; at once if it runs."""

    async def disconnect(self, container: str, network: str, force: bool) -> None:
        """Take it out again."""
