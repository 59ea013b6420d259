"""The bridge network: a bridge with NAT, one veth pair a container, published ports in one nft map."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoald.host import links, nft
from shoald.host.blocking import in_thread, to_end
from shoald.host.netlink import NetlinkSocket, open_netns
from shoald.metadata.store import Metadata
from shoald.model.container import PortMapping
from shoald.network import conntrack, forwarding
from shoald.network.notifications import changes
from shoald.network.ports import Endpoint
from shoald.network.reservations import Reservations, check_host_ip, check_protocol
from shoald.network.resolv import container_resolv_conf, host_resolv_conf
from shoald.network.rules import CHAINS, RULES, Published, close_script, open_script, table_script

log = structlog.get_logger(__name__)

REPAIR_TRIES = 5
"""Another program's transaction can be in the way of ours."""


@dataclass(frozen=True)
class BridgeSettings:
    """`mtu` 0: that of the interface with the default route."""

    bridge: str
    subnet: ipaddress.IPv4Network
    nft_table: str
    publish_address: str
    mtu: int = 0


class BridgeNetwork:
    """See shoald.network.ports.NetworkDriver."""

    def __init__(self, md: Metadata, settings: BridgeSettings) -> None:
        self._md = md
        self._settings = settings
        self._reservations = Reservations()
        self._rules = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._index = 0
        self._mtu = settings.mtu or 1500
        self._open: set[str] = set()
        self._changes: list[tuple[str, asyncio.Future[None]]] = []
        self._unwiring: dict[str, asyncio.Task[None]] = {}

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's own address: the first of the subnet."""
        return self._settings.subnet.network_address + 1

    # --- the host's side --------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """See NetworkDriver.setup."""
        await in_thread(self._setup_links)
        for owner, ports in self._md.ports.all().items():
            self._reservations.take_up(owner, ports)
            self._open.add(owner)
        async with self._rules:
            await self._write_table()
        await forwarding.admit(self._settings.bridge)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_rules(), name="nft-watch")

    def _setup_links(self) -> None:
        settings = self._settings
        with NetlinkSocket() as rtnl:
            present = links.links(rtnl)
            self._check_free(present)
            self._mtu = settings.mtu or _default_mtu(present)
            address = ipaddress.IPv4Interface((self.gateway, settings.subnet.prefixlen))
            mac = _mac(int(self.gateway))
            self._index = links.ensure_bridge(rtnl, settings.bridge, mac, [address], self._mtu)
        links.sysctl("net/ipv4/ip_forward", 1)
        links.sysctl(f"net/ipv4/conf/{settings.bridge}/route_localnet", 1)
        with contextlib.suppress(ShoalError):  # no router advertisements into containers; absent without IPv6
            links.sysctl(f"net/ipv6/conf/{settings.bridge}/accept_ra", 0)

    def _check_free(self, present: Sequence[links.Link]) -> None:
        for link in present:
            if link.name == self._settings.bridge:
                continue
            for address in link.addresses:
                if (
                    address.version == 4
                    and address.network.prefixlen
                    and address.network.overlaps(self._settings.subnet)
                ):
                    raise InvalidArgument(
                        f"the subnet {self._settings.subnet} overlaps {address} of interface {link.name}",
                        reason="SUBNET_IN_USE",
                        hint="set network.subnet in the daemon's configuration to a free range",
                    )

    def _published(self, owner: str) -> list[Published]:
        address = self._md.addresses.get(owner, self._settings.subnet)
        if address is None:
            return []
        return [
            Published(p.protocol, p.host_ip, p.host_port, str(address), p.container_port)
            for p in self._md.ports.of(owner)
        ]

    async def _write_table(self) -> None:
        """Replace the table by what should be there. Holds: the lock of the rules."""
        published = [p for owner in sorted(self._open) for p in self._published(owner)]
        settings = self._settings
        await nft.apply(table_script(settings.nft_table, settings.bridge, str(settings.subnet), published))

    async def _change(self, script: str) -> None:
        """Apply a small change, or replace the whole table where it does not fit (somebody flushed it a moment ago).

        Changes that come while nft runs are applied together by its next run: twenty containers that start or end at
        once need two or three, not twenty. Call through `to_end`, after `_open` says what is to be open.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append((script, done))
        async with self._rules:
            if not done.done():
                await self._apply_changes()
        await done

    async def _apply_changes(self) -> None:
        """Holds: the lock of the rules."""
        changes, self._changes = self._changes, []
        try:
            try:
                await nft.apply("".join(script for script, _ in changes))
            except ShoalError:
                await self._write_table()
        except BaseException as error:  # noqa: BLE001 -- told to all who wait
            for _, done in changes:
                done.set_exception(error)
        else:
            for _, done in changes:
                done.set_result(None)

    async def _watch_rules(self) -> None:
        """Rules that somebody else flushed come back within moments: published ports are ours to keep."""
        async for _ in changes():
            for attempt in range(REPAIR_TRIES):
                try:
                    await self._repair()
                    break
                except ShoalError as error:
                    log.error("nft_repair_failed", error=str(error), attempt=attempt)
                    await asyncio.sleep(0.1 * 2**attempt)

    async def _repair(self) -> None:
        async with self._rules:
            found = await nft.list_table("ip", self._settings.nft_table) or []
            chains = {o["chain"]["name"] for o in found if "chain" in o}
            rules = sum("rule" in o for o in found)
            elements = sum(len(o["map"].get("elem", [])) for o in found if "map" in o)
            wanted = sum(len(self._published(owner)) for owner in self._open)
            if not chains >= CHAINS or rules < RULES or elements < wanted:
                log.warning("nft_rules_restored", table=self._settings.nft_table)
                await self._write_table()
        if await forwarding.admit(self._settings.bridge):
            log.warning("forwarding_admitted", bridge=self._settings.bridge)

    async def teardown(self) -> None:
        """See NetworkDriver.teardown."""
        await self.close()
        await nft.delete_table("ip", self._settings.nft_table)
        await forwarding.withdraw(self._settings.bridge)
        await in_thread(self._delete_bridge)

    def _delete_bridge(self) -> None:
        with NetlinkSocket() as rtnl:
            present = links.links(rtnl)
            index = next((link.index for link in present if link.name == self._settings.bridge), None)
            for link in present:
                if index is not None and link.master == index:
                    links.delete_link(rtnl, link.name)
            links.delete_link(rtnl, self._settings.bridge)

    async def close(self) -> None:
        """Stop watching and free the sockets; rules and interfaces stay."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        if self._unwiring:
            await asyncio.wait(self._unwiring.values())
        self._reservations.close()

    # --- a container ------------------------------------------------------------------------------------------------

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint, tuple[PortMapping, ...]]:
        """See NetworkDriver.allocate."""
        wanted = _distinct([self._checked(port) for port in ports])
        with self._md.transaction():
            address = self._md.addresses.allocate(container_id, self._settings.subnet)
            known = self._md.ports.of(container_id)
            if not known and wanted:
                try:
                    self._reserve(container_id, wanted)
                except BaseException:
                    self._reservations.drop(container_id)
                    raise
        return self._endpoint(address), tuple(self._md.ports.of(container_id))

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

    def _endpoint(self, address: ipaddress.IPv4Address) -> Endpoint:
        return Endpoint(str(address), self._settings.subnet.prefixlen, str(self.gateway), _mac(int(address)))

    def reserved(self, container_id: str) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """See NetworkDriver.reserved."""
        address = self._md.addresses.get(container_id, self._settings.subnet)
        return (self._endpoint(address) if address else None), tuple(self._md.ports.of(container_id))

    async def connect(self, container_id: str, pid: int) -> None:
        """See NetworkDriver.connect."""
        address = self._md.addresses.get(container_id, self._settings.subnet)
        if address is None:
            raise NotFound(f"container {container_id[:12]} has no address", reason="NO_ADDRESS")
        await self._unwired(container_id)
        await in_thread(lambda: self._wire(_link_name(container_id), pid, address))
        try:
            await self._open_ports(container_id, address)
        except BaseException:
            await to_end(self._close_ports(container_id))
            await in_thread(lambda: self._unwire(_link_name(container_id)))
            raise

    async def _open_ports(self, container_id: str, address: ipaddress.IPv4Address) -> None:
        published = self._published(container_id)
        if published:
            self._open.add(container_id)
            await to_end(self._change(open_script(self._settings.nft_table, published)))
            await _forget_flows(published, address)

    def _wire(self, name: str, pid: int, address: ipaddress.IPv4Address) -> None:
        inside = links.Endpoint(
            name="eth0",
            mac=_mac(int(address)),
            addresses=(ipaddress.IPv4Interface((address, self._settings.subnet.prefixlen)),),
            gateways=(self.gateway,),
            mtu=self._mtu,
        )
        netns = open_netns(pid)
        try:
            with NetlinkSocket() as rtnl:
                # What an earlier, interrupted attempt left: it takes its other end along.
                links.delete_link(rtnl, name)
                links.connect_netns(rtnl, name, self._index, netns, inside)
        finally:
            os.close(netns)

    async def disconnect(self, container_id: str) -> None:
        """See NetworkDriver.disconnect."""
        await to_end(self._close_ports(container_id))
        if container_id in self._unwiring or self._md.addresses.get(container_id, self._settings.subnet) is None:
            return
        # The kernel takes some 25 ms for it, and mostly the interface went with its namespace: nobody need wait.
        task = asyncio.create_task(asyncio.to_thread(self._unwire, _link_name(container_id)))
        self._unwiring[container_id] = task
        task.add_done_callback(lambda done: self._after_unwiring(container_id, done))

    async def _close_ports(self, container_id: str) -> None:
        address = self._md.addresses.get(container_id, self._settings.subnet)
        published = self._published(container_id)
        was_open = container_id in self._open
        self._open.discard(container_id)
        if published and was_open:
            await self._change(close_script(self._settings.nft_table, published))
        if published and was_open and address is not None:
            await _forget_flows(published, address)

    def _after_unwiring(self, container_id: str, task: asyncio.Task[None]) -> None:
        self._unwiring.pop(container_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("interface_not_removed", error=str(error))

    async def _unwired(self, container_id: str) -> None:
        """Wait for a removal that still goes on: it would take the next interface, which has the same name."""
        task = self._unwiring.get(container_id)
        if task is not None:
            await asyncio.wait([task])

    def _unwire(self, name: str) -> None:
        with NetlinkSocket() as rtnl:
            links.delete_link(rtnl, name)

    async def release(self, container_id: str) -> None:
        """See NetworkDriver.release."""
        await self.disconnect(container_id)
        self._reservations.drop(container_id)
        with self._md.transaction():
            self._md.ports.release(container_id)
            self._md.addresses.release(container_id)

    def resolv_conf(self) -> str:
        """See NetworkDriver.resolv_conf."""
        return container_resolv_conf(host_resolv_conf())


def _distinct(ports: Sequence[PortMapping]) -> list[PortMapping]:
    """Without exact repetitions of a fixed port."""
    return [port for at, port in enumerate(ports) if port.host_port == 0 or port not in ports[:at]]


async def _forget_flows(published: Sequence[Published], address: ipaddress.IPv4Address) -> None:
    """A UDP flow keeps the way that it had when it began, for as long as it goes on: to nowhere from before the port
    was published, to whoever has the address next from before it was closed."""
    ports = {p.host_port for p in published if p.protocol == "udp"}
    if ports:
        try:
            await in_thread(lambda: conntrack.forget_udp(ports, address))
        except ShoalError as error:
            log.warning("flows_not_forgotten", error=str(error))


def _link_name(container_id: str) -> str:
    return "sh" + container_id[:12]


def _mac(address: int) -> str:
    """A locally administered MAC that follows from the IPv4 address, as Docker's do."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.to_bytes(4, "big"))


def _default_mtu(present: Sequence[links.Link]) -> int:
    with contextlib.suppress(OSError, StopIteration, IndexError):
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
        name = next(fields[0] for fields in map(str.split, lines) if fields[1] == "00000000")
        return next(link.mtu for link in present if link.name == name)
    return 1500
