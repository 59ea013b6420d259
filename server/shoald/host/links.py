"""Network links, addresses and routes: bridges, veth pairs into a container's namespace, kernel switches.

All calls block for about a millisecond, longer while the kernel's rtnl lock is taken: call them in a thread. Errors
are those of `shoald.host.syscall.failure` with the kernel's own explanation.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument, NotFound
from shoald.host import netlink
from shoald.host.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSocket, Request
from shoald.host.syscall import translated

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

IFF_UP = 0x1

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_NET_NS_FD, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 28, 1, 2
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
_VETH_INFO_PEER = 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 4, 0, 1

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_LOOPBACK = 1
"""The index of `lo`, which the kernel makes first in every namespace."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface and its addresses. `master` is the index of its bridge, `kind` "" for a physical one."""

    index: int
    name: str
    up: bool
    mtu: int
    mac: str
    master: int | None
    kind: str
    addresses: tuple[IPInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the inside of a container gets: an interface with addresses and default routes.

    `mac` is fixed by the caller so that it survives a restart; `gateways` may be empty (an internal network).
    """

    name: str
    mac: str
    addresses: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...] = ()
    mtu: int = 1500


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"bad interface name {name!r}", reason="INVALID_INTERFACE_NAME")
    return name


def _mac(text: str) -> bytes:
    try:
        packed = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6 or packed[0] & 1:
        raise InvalidArgument(f"bad MAC address {text!r}", reason="INVALID_MAC")
    return packed


def _ifinfo(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change)


def bridge_request(name: str, mac: str, mtu: int) -> Request:
    """Make a bridge that is up. A fixed MAC, or else the bridge takes the lowest of its ports', which come and go."""
    payload = (
        _ifinfo(flags=IFF_UP, change=IFF_UP)
        + netlink.text(_IFLA_IFNAME, _checked(name))
        + netlink.attribute(_IFLA_ADDRESS, _mac(mac))
        + netlink.u32(_IFLA_MTU, mtu)
        + netlink.nested(_IFLA_LINKINFO, netlink.text(_IFLA_INFO_KIND, "bridge"))
    )
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(netlink.RTM_NEWLINK, flags, payload, f"create bridge {name}", frozenset({errno.EEXIST}))


def veth_request(name: str, master: int | None, netns: int, endpoint: Endpoint) -> Request:
    """Make a veth pair: `name` here (up, a port of the bridge `master`), the other end down inside `netns`.

    The kernel refuses to make the far end up at once (ENOTCONN): it is not paired yet.
    """
    peer = (
        _ifinfo()
        + netlink.text(_IFLA_IFNAME, _checked(endpoint.name))
        + netlink.attribute(_IFLA_ADDRESS, _mac(endpoint.mac))
        + netlink.u32(_IFLA_MTU, endpoint.mtu)
        + netlink.u32(_IFLA_NET_NS_FD, netns)
    )
    info = netlink.nested(
        _IFLA_LINKINFO,
        netlink.text(_IFLA_INFO_KIND, "veth"),
        netlink.nested(_IFLA_INFO_DATA, netlink.attribute(_VETH_INFO_PEER, peer)),
    )
    payload = _ifinfo(flags=IFF_UP, change=IFF_UP) + netlink.text(_IFLA_IFNAME, _checked(name))
    payload += netlink.u32(_IFLA_MTU, endpoint.mtu)
    if master is not None:
        payload += netlink.u32(_IFLA_MASTER, master)
    return Request(netlink.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload + info, f"create veth pair {name}")


def port_request(name: str, *, hairpin: bool, isolated: bool) -> Request:
    """Set a bridge port: `hairpin` lets a container reach its own published port, `isolated` no other isolated port."""
    info = netlink.nested(
        _IFLA_LINKINFO,
        netlink.text(_IFLA_INFO_SLAVE_KIND, "bridge"),
        netlink.nested(
            _IFLA_INFO_SLAVE_DATA,
            netlink.u8(_IFLA_BRPORT_MODE, int(hairpin)),
            netlink.u8(_IFLA_BRPORT_ISOLATED, int(isolated)),
        ),
    )
    payload = _ifinfo() + netlink.text(_IFLA_IFNAME, _checked(name)) + info
    return Request(netlink.RTM_NEWLINK, 0, payload, f"set bridge port {name}")


def master_request(name: str, master: int) -> Request:
    """Make a link a port of a bridge."""
    payload = _ifinfo() + netlink.text(_IFLA_IFNAME, _checked(name)) + netlink.u32(_IFLA_MASTER, master)
    return Request(netlink.RTM_NEWLINK, 0, payload, f"set bridge of {name}")


def up_request(index: int, *, up: bool = True) -> Request:
    """Set a link up or down."""
    payload = _ifinfo(index, flags=IFF_UP if up else 0, change=IFF_UP)
    return Request(netlink.RTM_NEWLINK, 0, payload, f"set link {index} {'up' if up else 'down'}")


def address_request(index: int, address: IPInterface) -> Request:
    """Add (or keep) an address. IPv6 skips duplicate address detection: addresses are ours to give out."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.ip.packed
    payload = _IFADDR.pack(family, address.network.prefixlen, 0, _RT_SCOPE_UNIVERSE, index)
    payload += netlink.attribute(_IFA_LOCAL, packed) + netlink.attribute(_IFA_ADDRESS, packed)
    if address.version == 6:
        payload += netlink.u32(_IFA_FLAGS, _IFA_F_NODAD)
    elif address.network.prefixlen < 31:
        payload += netlink.attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return Request(netlink.RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, payload, f"add address {address}")


def drop_address_request(index: int, address: IPInterface) -> Request:
    """Remove an address; one that is gone already is no error."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    payload = _IFADDR.pack(family, address.network.prefixlen, 0, _RT_SCOPE_UNIVERSE, index)
    payload += netlink.attribute(_IFA_LOCAL, address.ip.packed)
    gone = frozenset({errno.EADDRNOTAVAIL})
    return Request(netlink.RTM_DELADDR, 0, payload, f"remove address {address}", gone)


def default_route_request(index: int, gateway: IPAddress) -> Request:
    """Set the default route of the gateway's family."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    payload = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    payload += netlink.attribute(_RTA_GATEWAY, gateway.packed) + netlink.u32(_RTA_OIF, index)
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Request(netlink.RTM_NEWROUTE, flags, payload, f"add default route via {gateway}")


def parse_link(payload: bytes) -> Link:
    """The link that an RTM_NEWLINK message from the kernel describes, without addresses."""
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    found = dict(netlink.attributes(payload[_IFINFO.size :]))
    info = dict(netlink.attributes(found.get(_IFLA_LINKINFO, b"")))
    master = found.get(_IFLA_MASTER)
    return Link(
        index=index,
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        up=bool(flags & IFF_UP),
        mtu=struct.unpack("=I", found.get(_IFLA_MTU, bytes(4)))[0],
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        master=struct.unpack("=I", master)[0] if master is not None else None,
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
    )


def parse_address(payload: bytes) -> tuple[int, IPInterface] | None:
    """(link index, address) that an RTM_NEWADDR message describes; None for families other than IPv4 and IPv6."""
    family, prefix, _, _, index = _IFADDR.unpack_from(payload)
    found = dict(netlink.attributes(payload[_IFADDR.size :]))
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    if family == socket.AF_INET and len(packed) == 4:
        return index, ipaddress.IPv4Interface((packed, prefix))
    if family == socket.AF_INET6 and len(packed) == 16:
        return index, ipaddress.IPv6Interface((packed, prefix))
    return None


def links(rtnl: NetlinkSocket) -> list[Link]:
    """All interfaces of the socket's namespace with their addresses, by index."""
    addresses = _addresses(rtnl)
    listed = [
        parse_link(message.payload)
        for message in rtnl.dump(netlink.RTM_GETLINK, _ifinfo(), "list links")
        if message.kind == netlink.RTM_NEWLINK
    ]
    return [
        Link(
            link.index,
            link.name,
            link.up,
            link.mtu,
            link.mac,
            link.master,
            link.kind,
            tuple(addresses.get(link.index, ())),
        )
        for link in sorted(listed, key=lambda link: link.index)
    ]


def _addresses(rtnl: NetlinkSocket) -> dict[int, list[IPInterface]]:
    addresses: dict[int, list[IPInterface]] = {}
    for message in rtnl.dump(netlink.RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), "list addresses"):
        if message.kind == netlink.RTM_NEWADDR and (found := parse_address(message.payload)) is not None:
            addresses.setdefault(found[0], []).append(found[1])
    return addresses


def find_link(rtnl: NetlinkSocket, name: str) -> Link | None:
    """The link of that name (without its addresses), or None."""
    payload = _ifinfo() + netlink.text(_IFLA_IFNAME, _checked(name))
    tolerated = frozenset({errno.ENODEV})
    (answer,) = rtnl.send([Request(netlink.RTM_GETLINK, 0, payload, f"find link {name}", tolerated)])
    return parse_link(answer[0].payload) if answer else None


def link_index(rtnl: NetlinkSocket, name: str) -> int:
    """The index of the link of that name; NotFound LINK_NOT_FOUND."""
    link = find_link(rtnl, name)
    if link is None:
        raise NotFound(f"no network interface {name!r}", reason="LINK_NOT_FOUND", metadata={"interface": name})
    return link.index


def ensure_bridge(rtnl: NetlinkSocket, name: str, mac: str, addresses: Sequence[IPInterface], mtu: int = 1500) -> int:
    """Make the bridge `name` unless it is there, up, with exactly these addresses; its index. Idempotent."""
    rtnl.send([bridge_request(name, mac, mtu)])
    link = find_link(rtnl, name)
    if link is None or link.kind != "bridge":
        raise InvalidArgument(f"network interface {name!r} exists and is no bridge", reason="LINK_IS_NOT_A_BRIDGE")
    stale = [address for address in _addresses(rtnl).get(link.index, []) if address not in addresses]
    rtnl.send(
        [
            up_request(link.index),
            *(drop_address_request(link.index, address) for address in stale if not address.ip.is_link_local),
            *(address_request(link.index, address) for address in addresses),
        ]
    )
    return link.index


def delete_link(rtnl: NetlinkSocket, name: str) -> bool:
    """Delete a link (either end of a veth pair takes the other along); False when there is none."""
    link = find_link(rtnl, name)
    if link is None:
        return False
    gone = frozenset({errno.ENODEV})
    rtnl.send([Request(netlink.RTM_DELLINK, 0, _ifinfo(link.index), f"delete link {name}", gone)])
    return True


def connect_netns(
    rtnl: NetlinkSocket,
    name: str,
    bridge: int | None,
    netns: int,
    endpoint: Endpoint,
    *,
    hairpin: bool = True,
    isolated: bool = False,
) -> None:
    """Wire a network namespace to a bridge: a veth pair, and inside loopback, addresses and default routes.

    `name` is the host's end, `bridge` the index of its bridge, `netns` a descriptor of the namespace. Takes 1 to 3 ms.
    On failure the pair is deleted again.
    """
    rtnl.send([veth_request(name, bridge, netns, endpoint)])
    try:
        if bridge is not None:
            rtnl.send([port_request(name, hairpin=hairpin, isolated=isolated)])
        with NetlinkSocket(netns) as inside:
            configure(inside, endpoint)
    except BaseException:
        delete_link(rtnl, name)
        raise


def configure(inside: NetlinkSocket, endpoint: Endpoint) -> None:
    """Inside a namespace: loopback up, and the endpoint's addresses and default routes on its (existing) interface."""
    index = link_index(inside, endpoint.name)
    inside.send(
        [
            up_request(_LOOPBACK),
            up_request(index),
            *(address_request(index, address) for address in endpoint.addresses),
            *(default_route_request(index, gateway) for gateway in endpoint.gateways),
        ]
    )


def sysctl(name: str, value: str | int) -> None:
    """Set a kernel switch by its path below /proc/sys, for example "net/ipv4/conf/br0/route_localnet".

    Written only when it differs. NotFound when this kernel (or a missing module) has no such switch.
    """
    path = Path("/proc/sys") / name
    if ".." in path.parts or (path.is_absolute() and not str(path).startswith("/proc/sys/")):
        raise InvalidArgument(f"bad sysctl {name!r}", reason="INVALID_SYSCTL")
    with translated("set sysctl", path):
        if path.read_text().strip() != str(value):
            path.write_text(f"{value}\n")


def read_sysctl(name: str) -> str | None:
    """The value of a kernel switch by its path below /proc/sys, or None when there is no such switch."""
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
