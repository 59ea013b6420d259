"""Bridges and veth pairs of networks: everything here blocks and runs in threads."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument, ShoalError
from shoald.host import links
from shoald.host.netlink import NetlinkSocket, open_netns
from shoald.model.network import Network, Subnet
from shoald.network.addressing import is_bridge_name
from shoald.network.ports import Endpoint


def link_name(container_id: str, network: Network) -> str:
    """Name of the host's end. In the default network the container's id can be read from it."""
    if not network.named:
        return "sh" + container_id[:12]
    return "sh" + hashlib.sha256(f"{network.id} {container_id}".encode()).hexdigest()[:12]


def mac_of(address: ipaddress.IPv4Address) -> str:
    """A locally administered MAC that follows from the IPv4 address, as Docker's do."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


def used_subnets(own: Sequence[str] = ()) -> dict[Subnet, str]:
    """Subnets of this host's interfaces and routes, and whose they are; without those of the interfaces `own`."""
    with NetlinkSocket() as rtnl:
        present = links.links(rtnl)
    found: dict[Subnet, str] = {}
    for route, name in routes(Path("/proc/net/route").read_text()):
        if name not in own:
            found[route] = f"a route through interface {name}"
    for link in present:
        for address in link.addresses:
            if link.name not in own and address.network.prefixlen and not address.network.is_link_local:
                found[address.network] = f"interface {link.name}"
    return found


def routes(text: str) -> list[tuple[ipaddress.IPv4Network, str]]:
    """Of /proc/net/route, without default routes; pure."""
    found = []
    for fields in map(str.split, text.splitlines()[1:]):
        mask = int.from_bytes(bytes.fromhex(fields[7]), "little").bit_count()
        if mask:
            address = int.from_bytes(bytes.fromhex(fields[1]), "little")
            found.append((ipaddress.IPv4Network((address, mask), strict=False), fields[0]))
    return found


def default_mtu() -> int:
    """That of the interface with the default route."""
    with contextlib.suppress(OSError, StopIteration, IndexError, ValueError):
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
        name = next(fields[0] for fields in map(str.split, lines) if fields[1] == "00000000")
        return int(Path(f"/sys/class/net/{name}/mtu").read_text())
    return 1500


def make_bridge(network: Network, mtu: int) -> int:
    """Make the bridge of a network as it should be; its index. Idempotent."""
    addresses: list[links.IPInterface] = [ipaddress.IPv4Interface((network.gateway, network.subnet.prefixlen))]
    if network.subnet6 is not None and network.gateway6 is not None:
        addresses.append(ipaddress.IPv6Interface((network.gateway6, network.subnet6.prefixlen)))
        _forward6()
    with NetlinkSocket() as rtnl:
        index = links.ensure_bridge(rtnl, network.bridge, mac_of(network.gateway), addresses, mtu)
    links.sysctl("net/ipv4/ip_forward", 1)
    links.sysctl(f"net/ipv4/conf/{network.bridge}/route_localnet", 1)
    with contextlib.suppress(ShoalError):  # no router advertisements of containers; absent without IPv6
        links.sysctl(f"net/ipv6/conf/{network.bridge}/accept_ra", 0)
    return index


def _forward6() -> None:
    """Forward IPv6. The kernel then no longer listens to routers, which may be where the host has its own default route
    from: interfaces that did go on to (accept_ra 2)."""
    if links.read_sysctl("net/ipv6/conf/all/forwarding") == "1":
        return
    for name in os.listdir("/proc/sys/net/ipv6/conf"):
        if name != "all" and links.read_sysctl(f"net/ipv6/conf/{name}/accept_ra") == "1":
            with contextlib.suppress(ShoalError):  # an interface can go at any time
                links.sysctl(f"net/ipv6/conf/{name}/accept_ra", 2)
    links.sysctl("net/ipv6/conf/all/forwarding", 1)


def check_free(network: Network, own: Sequence[str]) -> None:
    """Raises InvalidArgument (SUBNET_IN_USE) when another interface has addresses of its subnets."""
    with NetlinkSocket() as rtnl:
        present = links.links(rtnl)
    for text in network.subnets:
        subnet = ipaddress.ip_network(text)
        for link in present:
            for address in link.addresses:
                used = address.network
                if link.name in own or used.version != subnet.version or not used.prefixlen:
                    continue
                if used.overlaps(subnet):
                    raise InvalidArgument(
                        f"the subnet {subnet} overlaps {address} of interface {link.name}",
                        reason="SUBNET_IN_USE",
                        hint="set network.subnet in the daemon's configuration to a free range"
                        if not network.named
                        else "choose another subnet",
                    )


def delete_bridge(name: str) -> None:
    """Delete a bridge and what is connected to it."""
    with NetlinkSocket() as rtnl:
        present = links.links(rtnl)
        index = next((link.index for link in present if link.name == name), None)
        for link in present:
            if index is not None and link.master == index:
                links.delete_link(rtnl, link.name)
        links.delete_link(rtnl, name)


def bridges_of(default: str) -> list[str]:
    """The bridges of user-defined networks of the daemon with this default bridge, as they are on the host."""
    with NetlinkSocket() as rtnl:
        return [link.name for link in links.links(rtnl) if link.kind == "bridge" and is_bridge_name(default, link.name)]


def present_links() -> dict[str, int | None]:
    """Name -> index of the bridge, of all interfaces."""
    with NetlinkSocket() as rtnl:
        return {link.name: link.master for link in links.links(rtnl)}


def enslave(name: str, bridge: int, *, isolated: bool) -> None:
    """Make an interface a port of a bridge."""
    with NetlinkSocket() as rtnl:
        rtnl.send([links.master_request(name, bridge), links.port_request(name, hairpin=True, isolated=isolated)])


@dataclass(frozen=True)
class Port:
    """An interface to be made: a container's place in a network whose bridge has this index."""

    network: Network
    endpoint: Endpoint
    bridge: int
    mtu: int


def wire(container_id: str, pid: int, ports: Sequence[Port], ways: Sequence[links.IPAddress]) -> None:
    """Give a network namespace interfaces eth0, eth1... `ways`: default gateways. Raises NotFound when the process is
    gone; what was made before a failure is deleted again."""
    netns = open_netns(pid)
    made: list[str] = []
    try:
        with NetlinkSocket() as rtnl, NetlinkSocket(netns) as inside:
            taken = {link.name for link in links.links(inside)}
            try:
                for port in ports:
                    name = link_name(container_id, port.network)
                    # What an earlier, interrupted attempt left: it takes its other end along.
                    if links.delete_link(rtnl, name):
                        taken = {link.name for link in links.links(inside)}
                    interface = next(f"eth{n}" for n in range(10000) if f"eth{n}" not in taken)
                    taken.add(interface)
                    made.append(name)
                    inner = _inside(interface, port, ways)
                    links.connect_netns(rtnl, name, port.bridge, netns, inner, isolated=not port.network.icc)
            except BaseException:
                for name in made:
                    links.delete_link(rtnl, name)
                raise
    finally:
        os.close(netns)


def _inside(interface: str, port: Port, ways: Sequence[links.IPAddress]) -> links.Endpoint:
    endpoint = port.endpoint
    addresses: list[links.IPInterface] = [ipaddress.IPv4Interface(f"{endpoint.ip_address}/{endpoint.prefix_length}")]
    if endpoint.ip6_address:
        addresses.append(ipaddress.IPv6Interface(f"{endpoint.ip6_address}/{endpoint.prefix6_length}"))
    own = {endpoint.gateway, endpoint.gateway6}
    return links.Endpoint(
        name=interface,
        mac=endpoint.mac_address,
        addresses=tuple(addresses),
        gateways=tuple(way for way in ways if str(way) in own),
        mtu=port.mtu,
    )


def route(pid: int, ways: Sequence[tuple[links.IPAddress, str]]) -> None:
    """Set default routes in a namespace: (gateway, MAC of the interface that leads to it) each."""
    netns = open_netns(pid)
    try:
        with NetlinkSocket(netns) as inside:
            indices = {link.mac: link.index for link in links.links(inside)}
            inside.send([links.default_route_request(indices[mac], way) for way, mac in ways if mac in indices])
    finally:
        os.close(netns)


def unwire(names: Sequence[str]) -> None:
    """Delete host's ends; their other ends go with them."""
    with NetlinkSocket() as rtnl:
        for name in names:
            links.delete_link(rtnl, name)
