"""The networks of a daemon and their bridges: the default one of the configuration, and those that users defined."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ShoalError
from shoald.host.blocking import in_thread
from shoald.metadata.store import Metadata
from shoald.model.network import DEFAULT, Membership, Network, NetworkRequest, Subnet
from shoald.network import wiring
from shoald.network.addressing import (
    bridge_name,
    free_subnet,
    free_subnet6,
    options_of,
    overlapping,
    plan_of,
)
from shoald.network.guests import Guests
from shoald.network.ports import Endpoint

log = structlog.get_logger(__name__)

SUBNET_PREFIX = 24
_ID_PREFIX = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True)
class NetworkSettings:
    """The default network, where subnets of others come from, and the MTU of all (0: the default route's)."""

    bridge: str
    subnet: ipaddress.IPv4Network
    pool: ipaddress.IPv4Network
    mtu: int


class Networks:
    """By id, name and prefix; with the indices of their bridges, which only the kernel knows."""

    def __init__(self, md: Metadata, settings: NetworkSettings) -> None:
        self._md = md
        self._settings = settings
        self._default = Network(
            id=DEFAULT,
            name=DEFAULT,
            created_at=datetime.fromtimestamp(0, UTC),
            bridge=settings.bridge,
            subnets=(str(settings.subnet),),
            gateways=(str(settings.subnet.network_address + 1),),
        )
        self._indices: dict[str, int] = {}
        self._broken: dict[str, str] = {}
        self._mtu = settings.mtu or 1500
        self.guests = Guests()
        self.changing = asyncio.Lock()
        """Held while a network comes or goes, and while a container joins one."""

    # --- which there are --------------------------------------------------------------------------------------------

    def list(self) -> Sequence[Network]:
        """The default one first, then by name."""
        return [self._default, *self._md.networks.list()]

    def get(self, network_id: str) -> Network | None:
        """By id, or None."""
        return self._default if network_id == DEFAULT else self._md.networks.get(network_id)

    def require(self, network_id: str) -> Network:
        """By id. Raises NotFound (NETWORK_NOT_FOUND)."""
        found = self.get(network_id)
        if found is None:
            raise _missing(network_id[:12])
        return found

    def find(self, name: str) -> Network:
        """By name, id or unique prefix of the id. Raises NotFound (NETWORK_NOT_FOUND), InvalidArgument
        (AMBIGUOUS_ID)."""
        networks = self.list()
        found = [network for network in networks if name in (network.name, network.id)]
        if not found and _ID_PREFIX.fullmatch(name):
            found = [network for network in networks if network.id.startswith(name)]
        if len(found) > 1:
            raise InvalidArgument(
                f"several networks have an id that begins with {name}",
                reason="AMBIGUOUS_ID",
                hint="give more digits of the id, or the name",
            )
        if not found:
            raise _missing(name)
        return found[0]

    # --- bridges ----------------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """Make all bridges as they should be, and remove those of networks that are no more.

        Raises InvalidArgument (SUBNET_IN_USE) for the default network; another that can't be made is logged, and so is
        told to containers that want to start in it.
        """
        self._mtu = self._settings.mtu or wiring.default_mtu()
        networks = self.list()
        await in_thread(functools.partial(self._setup, networks, [network.bridge for network in networks]))

    def _setup(self, networks: Sequence[Network], own: Sequence[str]) -> None:
        for name in wiring.bridges_of(self._settings.bridge):
            if name not in own:
                log.info("removing_stray_bridge", bridge=name)
                wiring.delete_bridge(name)
        for network in networks:
            try:
                wiring.check_free(network, own)
                self._indices[network.id] = wiring.make_bridge(network, self.mtu(network))
                self._broken.pop(network.id, None)
            except ShoalError as error:
                if not network.named:
                    raise
                log.error("network_not_made", network=network.name, error=str(error))
                self._broken[network.id] = str(error)

    def index(self, network: Network) -> int:
        """Of its bridge. Raises FailedPrecondition (NETWORK_BROKEN)."""
        if network.id not in self._indices:
            why = self._broken.get(network.id, "its bridge was not made")
            raise FailedPrecondition(
                f"network {network.name} can't be used: {why}",
                reason="NETWORK_BROKEN",
                hint="free its subnet and restart shoald, or remove the network and create it anew",
            )
        return self._indices[network.id]

    async def make(self, network: Network) -> None:
        """Make the bridge of a new network. Raises InvalidArgument (SUBNET_IN_USE)."""
        own = [*(each.bridge for each in self.list()), network.bridge]
        self._indices[network.id] = await in_thread(functools.partial(self._make, network, own))

    def _make(self, network: Network, own: Sequence[str]) -> int:
        index = wiring.make_bridge(network, self.mtu(network))
        try:
            # Asked afterwards: another daemon may have chosen the same at the same time, and then sees us too.
            wiring.check_free(network, own)
        except BaseException:
            wiring.delete_bridge(network.bridge)
            raise
        return index

    async def unmake(self, network: Network) -> None:
        """Delete the bridge."""
        self._indices.pop(network.id, None)
        self._broken.pop(network.id, None)
        await in_thread(functools.partial(wiring.delete_bridge, network.bridge))

    def endpoint(
        self,
        network: Network,
        membership: Membership,
        address: ipaddress.IPv4Address,
        address6: ipaddress.IPv6Address | None,
    ) -> Endpoint:
        """Of a container with these addresses."""
        return Endpoint(
            ip_address=str(address),
            prefix_length=network.subnet.prefixlen,
            gateway=str(network.gateway),
            mac_address=membership.mac_address.lower().replace("-", ":") or wiring.mac_of(address),
            network=network.name,
            ip6_address=str(address6) if address6 is not None else "",
            prefix6_length=network.subnet6.prefixlen if network.subnet6 is not None else 0,
            gateway6=str(network.gateway6) if network.gateway6 is not None else "",
            internal=network.internal,
        )

    def mtu(self, network: Network) -> int:
        """Of its interfaces."""
        return network.mtu or self._mtu

    # --- new ones ---------------------------------------------------------------------------------------------------

    async def plan(self, request: NetworkRequest, request_id: str, avoid: Sequence[Subnet] = ()) -> Network:
        """What a request makes; subnets are chosen where none are named, and never from `avoid`.

        Raises InvalidArgument, AlreadyExists (SUBNET_IN_USE), ResourceExhausted (NO_FREE_SUBNET).
        """
        options, plan = options_of(request.options), plan_of(request)
        taken = await self._taken()
        for wanted in (plan.subnet, plan.subnet6):
            if wanted is not None and (other := overlapping(wanted, taken)):
                raise AlreadyExists(
                    f"the subnet {wanted} overlaps {other}",
                    reason="SUBNET_IN_USE",
                    hint="choose another subnet, or none: a free one is found",
                )
        busy = [*taken, *avoid]
        subnet = plan.subnet or free_subnet(self._settings.pool, SUBNET_PREFIX, busy)
        subnets, gateways = [str(subnet)], [str(plan.gateway or _first(subnet, plan.ip_range))]
        if plan.ipv6:
            subnet6 = plan.subnet6 or free_subnet6(self._md.meta.host_id, busy)
            subnets.append(str(subnet6))
            gateways.append(str(plan.gateway6 or subnet6.network_address + 1))
        network_id = self._new_id()
        return Network(
            id=network_id,
            name=request.name,
            created_at=datetime.now(UTC),
            bridge=bridge_name(self._settings.bridge, network_id),
            subnets=tuple(subnets),
            gateways=tuple(gateways),
            ip_range=str(plan.ip_range or ""),
            internal=request.internal,
            labels=request.labels,
            options=request.options,
            mtu=options.mtu,
            icc=options.icc,
            isolated=options.isolated,
            request_id=request_id,
        )

    async def _taken(self) -> dict[Subnet, str]:
        networks = self.list()
        own = [network.bridge for network in networks]
        found = await in_thread(functools.partial(wiring.used_subnets, own))
        for network in networks:
            for text in network.subnets:
                found[ipaddress.ip_network(text)] = f"network {network.name}"
        return found

    def _new_id(self) -> str:
        bridges = {network.bridge for network in self.list()}
        while bridge_name(self._settings.bridge, new := secrets.token_hex(32)) in bridges:
            continue
        return new


def _first(subnet: ipaddress.IPv4Network, ip_range: ipaddress.IPv4Network | None) -> ipaddress.IPv4Address:
    """As in Docker the first address of the range that others come from."""
    if ip_range is None or ip_range.network_address == subnet.network_address:
        return subnet.network_address + 1
    return ip_range.network_address


def _missing(name: str) -> NotFound:
    return NotFound(
        f"no such network: {name}",
        reason="NETWORK_NOT_FOUND",
        hint="`shoal network ls` lists all, `shoal network create` makes one",
        metadata={"network": name},
    )
