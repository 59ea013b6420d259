"""Use cases of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from msgspec.structs import replace

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound, ShoalError
from shoald.containers.launcher import Launcher
from shoald.containers.watch import Locks
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, Membership
from shoald.model.network import ABSTRACT, Member, Network, NetworkRequest, Subnet, abstract_network
from shoald.network.addressing import check_membership, check_name
from shoald.network.bridge import BridgeNetwork
from shoald.network.ports import Endpoint
from shoald.runtime.namespaces import bridged

log = structlog.get_logger(__name__)

CREATE_TRIES = 5
Publish = Callable[[str, str, str, dict[str, str]], Any]
Labels = tuple[tuple[str, str], ...]


class NetworkCases:
    """What a caller can do with networks."""

    def __init__(self, md: Metadata, driver: BridgeNetwork, launcher: Launcher, locks: Locks, publish: Publish) -> None:
        self._md = md
        self._driver = driver
        self._networks = driver.networks
        self._launcher = launcher
        self._locks = locks
        self._publish = publish

    # --- which there are --------------------------------------------------------------------------------------------

    def list(self, labels: Labels = (), name: str = "") -> Sequence[Network]:
        """By name; also the default one, host and none."""
        found = [*self._networks.list(), *map(abstract_network, ABSTRACT)]
        selected = [network for network in found if name in network.name and labelled(network, labels)]
        return sorted(selected, key=lambda network: network.name)

    def inspect(self, name: str) -> tuple[Network, Sequence[Member]]:
        """The network, and the containers in it. Raises NotFound (NETWORK_NOT_FOUND)."""
        if name in ABSTRACT:
            users = [each for each in self._md.containers.list() if each.spec.network == name]
            return abstract_network(name), [Member(each, Membership(name)) for each in users]
        network = self._networks.find(name)
        members = []
        for container_id, membership in self._md.memberships.members(network.id).items():
            container = self._md.containers.get(container_id)
            if container is None:
                continue
            endpoint = next((e for e in self._driver.endpoints(container_id) if e.network == network.name), None)
            if endpoint is None:
                members.append(Member(container, membership))
            else:
                members.append(
                    Member(container, membership, endpoint.ip_address, endpoint.ip6_address, endpoint.mac_address)
                )
        return network, sorted(members, key=lambda member: member.container.name)

    def names(self) -> Mapping[str, Sequence[str]]:
        """Container id -> names of its networks."""
        names = {network.id: network.name for network in self._networks.list()}
        return {
            container_id: [names.get(membership.network, membership.network[:12]) for membership in memberships]
            for container_id, memberships in self._md.memberships.all().items()
        }

    def endpoints(self, container_id: str) -> Sequence[tuple[Endpoint, Membership]]:
        """Of a container, in the order in which it joined; addresses are empty where it has none now."""
        given = {endpoint.network: endpoint for endpoint in self._driver.endpoints(container_id)}
        found = []
        for membership in self._md.memberships.of(container_id):
            network = self._networks.get(membership.network)
            if network is not None:
                nothing = Endpoint("", 0, "", membership.mac_address, network=network.name)
                found.append((given.get(network.name, nothing), membership))
        return found

    # --- networks ---------------------------------------------------------------------------------------------------

    async def create(self, request_id: str, request: NetworkRequest) -> tuple[Network, Sequence[str]]:
        """See NetworkUses.create. Raises InvalidArgument, AlreadyExists (NETWORK_EXISTS, SUBNET_IN_USE)."""
        check_name(request.name)
        return await to_end(self._create(request_id, request)), self._warnings()

    async def _create(self, request_id: str, request: NetworkRequest) -> Network:
        async with self._networks.changing:
            for known in self._md.networks.list():
                if request_id and known.request_id == request_id:
                    return _same(known, request)
                if known.name == request.name:
                    raise AlreadyExists(
                        f"network {request.name} exists already",
                        reason="NETWORK_EXISTS",
                        hint="choose another name, or remove it first",
                    )
            network = await self._made(request_id, request)
        self._tell(network, "create")
        return network

    async def _made(self, request_id: str, request: NetworkRequest) -> Network:
        """Another daemon may take a subnet just when it was chosen: then the next one."""
        refused: list[Subnet] = []
        for attempt in range(CREATE_TRIES):
            network = await self._networks.plan(request, request_id, refused)
            try:
                await self._driver.create(network)
                return network
            except ShoalError as error:
                if error.reason != "SUBNET_IN_USE" or request.subnets or attempt == CREATE_TRIES - 1:
                    raise
                refused.append(network.subnet)
        raise AssertionError("the last attempt returns or raises")

    def _warnings(self) -> Sequence[str]:
        if self._driver.names.available:
            return ()
        return ("aardvark-dns is not installed: containers will not find each other by name",)

    async def remove(self, name: str) -> None:
        """Raises NotFound (NETWORK_NOT_FOUND), FailedPrecondition (NETWORK_IN_USE, NETWORK_PREDEFINED)."""
        await to_end(self._remove(name))

    async def _remove(self, name: str) -> None:
        async with self._networks.changing:
            network = self._networks.find(name) if name not in ABSTRACT else abstract_network(name)
            if network.name in ABSTRACT or not network.named:
                raise FailedPrecondition(
                    f"{network.name} is a predefined network and can't be removed", reason="NETWORK_PREDEFINED"
                )
            self._check_unused(network)
            await self._driver.remove(network)
        self._tell(network, "destroy")

    def _check_unused(self, network: Network) -> None:
        members = self._md.memberships.members(network.id)
        containers = [found.name for each in members if (found := self._md.containers.get(each)) is not None]
        if containers:
            raise FailedPrecondition(
                f"network {network.name} is in use by {', '.join(sorted(containers)[:10])}",
                reason="NETWORK_IN_USE",
                hint="disconnect or remove these containers first",
                metadata={"network": network.name},
            )
        if self._networks.guests.needs(network.id):
            raise FailedPrecondition(
                f"network {network.name} is in use by a build",
                reason="NETWORK_IN_USE",
                hint="wait for its end, or cancel it: shoal builder list",
                metadata={"network": network.name},
            )

    async def prune(self, labels: Labels = ()) -> Sequence[str]:
        """Names of the networks that no container named."""
        removed = []
        for network in self._md.networks.list():
            if not labelled(network, labels) or self._md.memberships.members(network.id):
                continue
            try:
                await self.remove(network.id)
            except (FailedPrecondition, NotFound):
                continue  # somebody was quicker
            removed.append(network.name)
        return removed

    # --- containers -------------------------------------------------------------------------------------------------

    async def connect(self, container: str, membership: Membership) -> None:
        """See NetworkUses.connect. Raises NotFound, InvalidArgument, AlreadyExists (ALREADY_CONNECTED, ADDRESS_IN_USE),
        FailedPrecondition (NO_OWN_NETWORK)."""
        await to_end(self._connect(container, membership))

    async def _connect(self, name: str, membership: Membership) -> None:
        container_id = self._md.containers.find(name).id
        async with self._locks.get(container_id):
            container = self._md.containers.find(container_id)
            network = self._bridge(membership.network)
            if not bridged(container.spec):
                raise FailedPrecondition(
                    f"container {container.name} has the network {container.spec.network}: it can't join others",
                    reason="NO_OWN_NETWORK",
                )
            if any(each.network == network.id for each in self._md.memberships.of(container_id)):
                raise AlreadyExists(
                    f"container {container.name} is in network {network.name} already", reason="ALREADY_CONNECTED"
                )
            membership = replace(membership, network=network.id)
            check_membership(network, membership)
            if container.pid:
                await self._driver.attach(container_id, container.pid, membership)
                await self._refresh(container)
            else:
                self._md.memberships.put(container_id, membership)
        self._tell(network, "connect", container=container_id)

    async def disconnect(self, container: str, network: str, force: bool) -> None:
        """See NetworkUses.disconnect. Raises NotFound (also NOT_CONNECTED, unless `force`)."""
        await to_end(self._disconnect(container, network, force))

    async def _disconnect(self, name: str, network_name: str, force: bool) -> None:
        network = self._bridge(network_name)
        try:
            container_id = self._md.containers.find(name).id
        except NotFound:
            if force:
                return  # what is gone is in no network
            raise
        async with self._locks.get(container_id):
            container = self._md.containers.find(container_id)
            if not any(each.network == network.id for each in self._md.memberships.of(container_id)):
                if force:
                    return
                raise NotFound(f"container {container.name} is not in network {network.name}", reason="NOT_CONNECTED")
            await self._driver.detach(container_id, container.pid, network.id)
            if container.pid:
                await self._refresh(container)
        self._tell(network, "disconnect", container=container_id)

    def _bridge(self, name: str) -> Network:
        if name in ABSTRACT:
            raise FailedPrecondition(
                f"a container can't be connected to or disconnected from the network {name}", reason="NO_OWN_NETWORK"
            )
        return self._networks.find(name)

    async def _refresh(self, container: Container) -> None:
        """Write down what has changed for one that runs."""
        endpoint, ports = self._driver.reserved(container.id)
        address = endpoint.ip_address if endpoint is not None else ""
        container = self._md.containers.update(container.id, ip_address=address, ports=tuple(ports))
        await self._launcher.refresh_etc(container)

    def _tell(self, network: Network, action: str, **attributes: str) -> None:
        try:
            self._publish("network", action, network.id, {"name": network.name, "type": "bridge", **attributes})
        except ShoalError as error:
            log.error("event_not_stored", network=network.name, action=action, error=str(error))


def labelled(network: Network, wanted: Labels) -> bool:
    """Whether it carries these labels; an empty value asks for the key only."""
    return all(key in network.labels and (not value or network.labels[key] == value) for key, value in wanted)


def _same(known: Network, request: NetworkRequest) -> Network:
    asked = (request.name, request.internal, dict(request.labels), dict(request.options))
    if asked != (known.name, known.internal, dict(known.labels), dict(known.options)):
        raise AlreadyExists(
            f"request id {known.request_id} was used for another request",
            reason="REQUEST_ID_REUSED",
            hint="make a new request id for a new request",
        )
    return known
