"""Bridge networks: a bridge each, with NAT; a veth pair for each container in each; published ports in nft maps."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from msgspec.structs import replace

from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoald.host.blocking import in_thread, to_end
from shoald.metadata.store import Metadata
from shoald.model.container import ContainerSpec, PortMapping
from shoald.model.network import DEFAULT, Membership, Network
from shoald.network import wiring
from shoald.network.addressing import asked_memberships, check_membership
from shoald.network.dns import NameServer
from shoald.network.flows import forget_flows
from shoald.network.networks import Networks, NetworkSettings
from shoald.network.ports import Endpoint
from shoald.network.reservations import Reservations, check_host_ip, check_protocol, distinct
from shoald.network.resolv import container_resolv_conf, host_resolv_conf
from shoald.network.rules import Published, Segment, close_script, open_script
from shoald.network.tables import Tables
from shoald.network.ways import no_ipv6, way, way6, ways
from shoald.network.zones import zones

log = structlog.get_logger(__name__)

DEFAULT_POOL = ipaddress.IPv4Network("10.209.128.0/17")


@dataclass(frozen=True)
class BridgeSettings:
    """`mtu` 0: that of the interface with the default route. `pool`: where subnets of networks come from that name
    none. `dns_program` "": containers do not find each other by name; `dns_directory`: its files."""

    bridge: str
    subnet: ipaddress.IPv4Network
    nft_table: str
    publish_address: str
    mtu: int = 0
    pool: ipaddress.IPv4Network = DEFAULT_POOL
    dns_program: str = ""
    dns_directory: Path = Path("/run/shoal/dns")


class BridgeNetwork:
    """See shoald.network.ports.NetworkDriver."""

    def __init__(self, md: Metadata, settings: BridgeSettings) -> None:
        self._md = md
        self._settings = settings
        self._reservations = Reservations()
        self.networks = Networks(md, NetworkSettings(settings.bridge, settings.subnet, settings.pool, settings.mtu))
        self._tables = Tables(settings.nft_table, settings.bridge, self._wanted)
        self.names = NameServer(
            settings.dns_directory,
            settings.dns_program,
            lambda: zones(md, self.networks.list(), self.networks.guests),
        )
        self._open: set[str] = set()
        self._unwiring: dict[str, asyncio.Task[None]] = {}

    # --- the host's side --------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """See NetworkDriver.setup."""
        await self.networks.setup()
        for owner, ports in self._md.ports.all().items():
            self._reservations.take_up(owner, ports)
            self._open.add(owner)
        await self._tables.setup()
        try:
            await self.names.update()
        except ShoalError as error:
            log.error("dns_not_started", error=str(error))

    def _wanted(self) -> tuple[Sequence[Segment], Sequence[Published]]:
        segments = [Segment(n.bridge, n.subnets, n.internal, n.isolated) for n in self.networks.list()]
        return segments, [p for owner in sorted(self._open) for p in self._published(owner)]

    def _published(self, owner: str) -> list[Published]:
        """Through the first network with a way out, which replies take too."""
        found = []
        ports = self._md.ports.of(owner)
        endpoints = self.endpoints(owner) if ports else ()
        for port in ports:
            version6 = ":" in port.host_ip
            out = way6(endpoints) if version6 else way(endpoints)
            if out is not None:
                address = out.ip6_address if version6 else out.ip_address
                found.append(Published(port.protocol, port.host_ip, port.host_port, address, port.container_port))
        return found

    async def teardown(self) -> None:
        """See NetworkDriver.teardown."""
        await self.close()
        await self.names.teardown()
        await self._tables.teardown()
        for network in self.networks.list():
            await in_thread(functools.partial(wiring.delete_bridge, network.bridge))

    async def close(self) -> None:
        """Stop watching and free the sockets; rules, interfaces and names stay."""
        await self._tables.close()
        await self.names.close()
        if self._unwiring:
            await asyncio.wait(self._unwiring.values())
        self._reservations.close()

    # --- networks ---------------------------------------------------------------------------------------------------

    def memberships(self, spec: ContainerSpec) -> Sequence[Membership]:
        """See NetworkDriver.memberships."""
        found: dict[str, Membership] = {}
        for asked in asked_memberships(spec):
            network = self.networks.find(asked.network)
            if network.id in found:
                raise InvalidArgument(f"network {network.name} is named twice", reason="CONFLICTING_OPTIONS")
            found[network.id] = replace(asked, network=network.id)
            check_membership(network, found[network.id])
        ipv6 = any(self.networks.require(id_).ipv6 for id_ in found)
        if found and not ipv6 and any(":" in port.host_ip for port in spec.ports):
            raise no_ipv6()
        return list(found.values())

    async def create(self, network: Network) -> None:
        """Make a network that is planned: row, bridge, rules. On failure nothing is left."""
        await self.networks.make(network)
        try:
            self._md.networks.insert(network)
            await to_end(self._tables.rewrite())
        except BaseException:
            self._md.networks.delete(network.id)
            await self.networks.unmake(network)
            raise

    async def remove(self, network: Network) -> None:
        """Delete it. Whoever calls has seen to it that nobody is in it."""
        self._md.networks.delete(network.id)
        await to_end(self._tables.rewrite())
        await self.networks.unmake(network)
        await to_end(self.names.update())

    # --- a container ------------------------------------------------------------------------------------------------

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """See NetworkDriver.allocate."""
        wanted = distinct([self._checked(port) for port in ports])
        with self._md.transaction():
            for membership in self._memberships(container_id):
                self._allocate(container_id, membership)
            endpoints = self.endpoints(container_id)
            if any(":" in port.host_ip for port in wanted) and way6(endpoints) is None:
                raise no_ipv6()
            known = self._md.ports.of(container_id)
            if not known and wanted:
                try:
                    self._reserve(container_id, wanted)
                except BaseException:
                    self._reservations.drop(container_id)
                    raise
        return (endpoints[0] if endpoints else None), tuple(self._md.ports.of(container_id))

    def _memberships(self, owner: str) -> Sequence[Membership]:
        found = self._md.memberships.of(owner)
        if found or self._md.containers.get(owner) is not None:
            return found
        return self.networks.guests.of(owner) or (Membership(DEFAULT),)

    def admit(self, owner: str, memberships: Sequence[Membership]) -> None:
        """See NetworkDriver.admit."""
        self.networks.guests.admit(owner, memberships)

    def _allocate(self, owner: str, membership: Membership) -> None:
        network = self.networks.require(membership.network)
        # What others asked for is kept for them, also while they do not run.
        others = [each for id_, each in self._md.memberships.members(network.id).items() if id_ != owner]
        avoid = {network.gateway, *(ipaddress.IPv4Address(each.ip_address) for each in others if each.ip_address)}
        self._md.addresses.allocate(
            owner,
            network.subnet,
            wanted=ipaddress.IPv4Address(membership.ip_address) if membership.ip_address else None,
            within=ipaddress.IPv4Network(network.ip_range) if network.ip_range else None,
            avoid=avoid,
        )
        if network.subnet6 is not None and network.gateway6 is not None:
            taken = {network.gateway6, *(ipaddress.IPv6Address(o.ip6_address) for o in others if o.ip6_address)}
            wanted6 = ipaddress.IPv6Address(membership.ip6_address) if membership.ip6_address else None
            self._md.addresses6.allocate(owner, network.subnet6, wanted=wanted6, avoid=taken)

    def _reserve(self, owner: str, ports: Sequence[PortMapping]) -> None:
        # Fixed ports first: a free one must not be taken from them.
        for port in sorted(ports, key=lambda p: p.host_port == 0):
            if port.host_port:
                self._md.ports.reserve(owner, port.host_ip, port.host_port, port.protocol, port.container_port)
                self._reservations.hold(owner, port)
            else:
                taken = {
                    p.host_port for held in self._md.ports.all().values() for p in held if p.protocol == port.protocol
                }
                number = self._reservations.hold_any(owner, port, taken.__contains__)
                self._md.ports.reserve(owner, port.host_ip, number, port.protocol, port.container_port)

    def _checked(self, port: PortMapping) -> PortMapping:
        check_protocol(port.protocol)
        host_ip = check_host_ip(port.host_ip or self._settings.publish_address)
        return PortMapping(port.container_port, host_ip, port.host_port, port.protocol)

    def reserved(self, container_id: str) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """See NetworkDriver.reserved."""
        endpoints = self.endpoints(container_id)
        return (endpoints[0] if endpoints else None), tuple(self._md.ports.of(container_id))

    def endpoints(self, container_id: str) -> Sequence[Endpoint]:
        """See NetworkDriver.endpoints."""
        return [endpoint for _, endpoint in self._placed(container_id)]

    def _placed(self, owner: str) -> list[tuple[Network, Endpoint]]:
        found = []
        for membership in self._memberships(owner):
            network = self.networks.get(membership.network)
            address = self._md.addresses.get(owner, network.subnet) if network is not None else None
            if network is None or address is None:
                continue
            address6 = self._md.addresses6.get(owner, network.subnet6) if network.subnet6 is not None else None
            found.append((network, self.networks.endpoint(network, membership, address, address6)))
        return found

    async def connect(self, container_id: str, pid: int) -> None:
        """See NetworkDriver.connect."""
        placed = self._placed(container_id)
        if not placed:
            if self._memberships(container_id):
                raise NotFound(f"container {container_id[:12]} has no address", reason="NO_ADDRESS")
            return
        await self._unwired(container_id)
        await self._wire(container_id, pid, placed)
        try:
            await self._open_ports(container_id)
            if any(network.named for network, _ in placed):
                await to_end(self.names.update())
        except BaseException:
            await to_end(self._close_ports(container_id))
            names = [wiring.link_name(container_id, network) for network, _ in placed]
            await in_thread(functools.partial(wiring.unwire, names))
            raise

    async def _wire(self, container_id: str, pid: int, placed: Sequence[tuple[Network, Endpoint]]) -> None:
        work = functools.partial(
            wiring.wire,
            container_id,
            pid,
            [wiring.Port(n, endpoint, self.networks.index(n), self.networks.mtu(n)) for n, endpoint in placed],
            [gateway for gateway, _ in ways(self.endpoints(container_id))],
        )
        await in_thread(work)

    async def _open_ports(self, container_id: str) -> None:
        published = self._published(container_id)
        if published:
            self._open.add(container_id)
            await to_end(self._tables.change(open_script(self._settings.nft_table, published)))
            await forget_flows(published)

    async def disconnect(self, container_id: str) -> None:
        """See NetworkDriver.disconnect."""
        await to_end(self._close_ports(container_id))
        names = [wiring.link_name(container_id, network) for network, _ in self._placed(container_id)]
        if container_id in self._unwiring or not names:
            return
        # The kernel takes some 25 ms for it, and mostly the interface went with its namespace: nobody need wait.
        task = asyncio.create_task(asyncio.to_thread(wiring.unwire, names))
        self._unwiring[container_id] = task
        task.add_done_callback(lambda done: self._after_unwiring(container_id, done))

    async def _close_ports(self, container_id: str) -> None:
        published = self._published(container_id)
        was_open = container_id in self._open
        self._open.discard(container_id)
        if published and was_open:
            await self._tables.change(close_script(self._settings.nft_table, published))
            await forget_flows(published)

    def _after_unwiring(self, container_id: str, task: asyncio.Task[None]) -> None:
        self._unwiring.pop(container_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("interface_not_removed", error=str(error))

    async def _unwired(self, container_id: str) -> None:
        """Wait for a removal that still goes on: it would take the next interface, which has the same name."""
        task = self._unwiring.get(container_id)
        if task is not None:
            await asyncio.wait([task])

    async def release(self, container_id: str) -> None:
        """See NetworkDriver.release."""
        named = any(network.named for network, _ in self._placed(container_id))
        await self.disconnect(container_id)
        self._reservations.drop(container_id)
        with self._md.transaction():
            self._md.ports.release(container_id)
            self._md.addresses.release(container_id)
            self._md.addresses6.release(container_id)
        self.networks.guests.leave(container_id)
        if named:
            await to_end(self.names.update())

    # --- while it runs ----------------------------------------------------------------------------------------------

    async def attach(self, container_id: str, pid: int, membership: Membership) -> None:
        """See NetworkDriver.attach."""
        await to_end(self._attach(container_id, pid, membership))

    async def _attach(self, container_id: str, pid: int, membership: Membership) -> None:
        before = self._published(container_id)
        try:
            with self._md.transaction():
                self._md.memberships.put(container_id, membership)
                self._allocate(container_id, membership)
            placed = self._placed(container_id)
            new = [(network, each) for network, each in placed if network.id == membership.network]
            await self._wire(container_id, pid, new)
            await self._rearrange(container_id, pid, before)
        except BaseException:
            await self._detach(container_id, pid, membership.network)
            raise

    async def detach(self, container_id: str, pid: int, network_id: str) -> None:
        """See NetworkDriver.detach."""
        await to_end(self._detach(container_id, pid, network_id))

    async def _detach(self, container_id: str, pid: int, network_id: str) -> None:
        network = self.networks.require(network_id)
        before = self._published(container_id)
        await in_thread(lambda: wiring.unwire([wiring.link_name(container_id, network)]))
        with self._md.transaction():
            self._md.memberships.remove(container_id, network_id)
            self._md.addresses.release(container_id, network.subnet)
            if network.subnet6 is not None:
                self._md.addresses6.release(container_id, network.subnet6)
        if pid:
            await self._rearrange(container_id, pid, before)

    async def _rearrange(self, container_id: str, pid: int, before: Sequence[Published]) -> None:
        """Ports, default routes and names, after the networks of a container have changed."""
        now = self._published(container_id)
        if self._md.ports.of(container_id):
            self._open.add(container_id)
        if now != before:
            table = self._settings.nft_table
            await self._tables.change(close_script(table, before) + open_script(table, now))
            await forget_flows([*before, *now])
        leading = ways(self.endpoints(container_id))
        if leading:
            await in_thread(lambda: wiring.route(pid, leading))
        await self.names.update()

    async def mend(self, container_id: str, pid: int) -> None:
        """See NetworkDriver.mend."""
        memberships = self._md.memberships.of(container_id)
        if not memberships:
            return
        present = await in_thread(wiring.present_links)
        joined = {membership.network for membership in memberships}
        for network in self.networks.list():
            if network.id not in joined and wiring.link_name(container_id, network) in present:
                await self.detach(container_id, pid, network.id)
        for membership in memberships:
            network = self.networks.require(membership.network)
            name = wiring.link_name(container_id, network)
            if name not in present:
                log.warning("interface_mended", container=container_id, network=network.name)
                await self.attach(container_id, pid, membership)
            elif present[name] != (index := self.networks.index(network)):
                await in_thread(functools.partial(wiring.enslave, name, index, isolated=not network.icc))

    async def renamed(self) -> None:
        """See NetworkDriver.renamed."""
        await to_end(self.names.update())

    def resolv_conf(self, endpoints: Sequence[Endpoint] = ()) -> str:
        """See NetworkDriver.resolv_conf."""
        named = [each for each in endpoints if each.network != DEFAULT]
        servers: list[str] = []
        if named and self.names.available:
            # Those that know names of outside first.
            for each in sorted(named, key=lambda endpoint: endpoint.internal):
                servers += [each.gateway, *([each.gateway6] if each.gateway6 else [])]
        return container_resolv_conf(host_resolv_conf(), servers)
