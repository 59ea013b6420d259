"""The bridge network: a bridge with NAT, one veth pair a container, published ports in one nft map."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoald.host import links, nft
from shoald.host.netlink import NetlinkSocket, open_netns
from shoald.metadata.store import Metadata
from shoald.model.container import PortMapping
from shoald.network.ports import Endpoint
from shoald.network.reservations import Reservations, check_host_ip
from shoald.network.rules import Published, close_script, open_script, table_script

log = structlog.get_logger(__name__)

FALLBACK_DNS = ("8.8.8.8", "8.8.4.4")
"""As Docker: when the host knows only resolvers on its own loopback, which a container can't reach."""
_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_NFT_DELETIONS = {(10 << 8) | 2, (10 << 8) | 5, (10 << 8) | 8, (10 << 8) | 14}
"""NFT_MSG_DELTABLE, DELCHAIN, DELRULE and DELSETELEM in the subsystem nftables (linux/netfilter/nf_tables.h)."""


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
        self._unwiring: set[asyncio.Task[None]] = set()

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's own address: the first of the subnet."""
        return self._settings.subnet.network_address + 1

    # --- the host's side --------------------------------------------------------------------------------------------

    async def setup(self) -> None:
        """See NetworkDriver.setup."""
        await asyncio.to_thread(self._setup_links)
        for owner, ports in self._md.ports.all().items():
            self._reservations.take_up(owner, ports)
            self._open.add(owner)
        await self._write_table()
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
        async with self._rules:
            published = [p for owner in sorted(self._open) for p in self._published(owner)]
            settings = self._settings
            await nft.apply(table_script(settings.nft_table, settings.bridge, str(settings.subnet), published))

    async def _watch_rules(self) -> None:
        """Rules that somebody else flushed come back within moments: published ports are ours to keep."""
        with _nft_notifications() as notifications:
            loop = asyncio.get_running_loop()
            while True:
                data = await loop.sock_recv(notifications, 1 << 18)
                if not _deletes(data):
                    continue
                await asyncio.sleep(0.05)  # let the other's transaction and its like finish
                with contextlib.suppress(BlockingIOError):
                    while notifications.recv(1 << 18):
                        pass
                try:
                    await self._repair()
                except ShoalError as error:
                    log.error("nft_repair_failed", error=str(error))

    async def _repair(self) -> None:
        async with self._rules:
            found = await nft.list_table("ip", self._settings.nft_table)
        chains = {o["chain"]["name"] for o in found or [] if "chain" in o}
        rules = sum("rule" in o for o in found or [])
        elements = sum(len(o["map"].get("elem", [])) for o in found or [] if "map" in o)
        wanted = sum(len(self._published(owner)) for owner in self._open)
        if chains >= {"raw", "prerouting", "output", "postrouting", "forward"} and rules >= 13 and elements >= wanted:
            return
        log.warning("nft_rules_restored", table=self._settings.nft_table)
        await self._write_table()

    async def teardown(self) -> None:
        """See NetworkDriver.teardown."""
        await self.close()
        await nft.delete_table("ip", self._settings.nft_table)
        await asyncio.to_thread(self._delete_bridge)

    def _delete_bridge(self) -> None:
        with NetlinkSocket() as rtnl:
            links.delete_link(rtnl, self._settings.bridge)

    async def close(self) -> None:
        """Stop watching and free the sockets; rules and interfaces stay."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        if self._unwiring:
            await asyncio.wait(self._unwiring)
        self._reservations.close()

    # --- a container ------------------------------------------------------------------------------------------------

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint, tuple[PortMapping, ...]]:
        """See NetworkDriver.allocate."""
        wanted = [self._checked(port) for port in ports]
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
            number = port.host_port
            if number:
                self._md.ports.reserve(owner, port.host_ip, number, port.protocol, port.container_port)
                self._reservations.hold(owner, port)
            else:
                taken = {(p.protocol, p.host_port) for all_ in self._md.ports.all().values() for p in all_}
                number = self._reservations.hold_any(owner, port, lambda n, p=port: (p.protocol, n) in taken)
                self._md.ports.reserve(owner, port.host_ip, number, port.protocol, port.container_port)

    def _checked(self, port: PortMapping) -> PortMapping:
        if port.protocol not in ("tcp", "udp"):
            raise InvalidArgument(f"invalid protocol {port.protocol!r}", reason="INVALID_PORTS", hint="use tcp or udp")
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
        await asyncio.to_thread(self._wire, _link_name(container_id), pid, address)
        published = self._published(container_id)
        if published:
            async with self._rules:
                self._open.add(container_id)
                await nft.apply(open_script(self._settings.nft_table, published))

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
                links.connect_netns(rtnl, name, self._index, netns, inside)
        finally:
            os.close(netns)

    async def disconnect(self, container_id: str) -> None:
        """See NetworkDriver.disconnect."""
        published = self._published(container_id)
        self._open.discard(container_id)
        if published:
            async with self._rules:
                await nft.apply(close_script(self._settings.nft_table, published))
        if self._md.addresses.get(container_id, self._settings.subnet) is not None:
            # The kernel takes some 25 ms for it, and mostly the interface went with its namespace: nobody need wait.
            task = asyncio.create_task(asyncio.to_thread(self._unwire, _link_name(container_id)))
            self._unwiring.add(task)
            task.add_done_callback(self._unwired)

    def _unwired(self, task: asyncio.Task[None]) -> None:
        self._unwiring.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("interface_not_removed", error=str(error))

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
        return container_resolv_conf(_host_resolv_conf())


def container_resolv_conf(text: str) -> str:
    """The host's resolv.conf without servers on loopback, which mean something else in a container; pure."""
    kept, servers = [], 0
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"]:
            try:
                if len(words) < 2 or ipaddress.ip_address(words[1].partition("%")[0]).is_loopback:
                    continue
            except ValueError:
                continue
            servers += 1
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            kept.append(line)
    if not servers:
        kept += [f"nameserver {server}" for server in FALLBACK_DNS]
    return "\n".join(kept) + "\n"


def _host_resolv_conf() -> str:
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        with contextlib.suppress(OSError):
            text = Path(path).read_text(errors="replace")
            # systemd-resolved: the stub on loopback is no use in a container, the file with the real servers is.
            if "nameserver 127.0.0.53" not in text:
                return text
    return ""


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


@contextlib.contextmanager
def _nft_notifications() -> Iterator[socket.socket]:
    notifications = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        notifications.setblocking(False)
        notifications.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        yield notifications
    finally:
        notifications.close()


def _deletes(data: bytes) -> bool:
    """Whether any message of the datagram deletes something of nftables (struct nlmsghdr: length, type...)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if kind in _NFT_DELETIONS:
            return True
        if length < 16:
            break
        offset += (length + 3) & ~3
    return False
