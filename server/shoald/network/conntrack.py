"""The kernel's table of connections, as far as published UDP ports need it (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from shoald.host import netlink
from shoald.host.netlink import NLM_F_DUMP, Request
from shoald.host.syscall import failure

Address = IPv4Address | IPv6Address
_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_GENERIC = {4: struct.pack("=BBH", socket.AF_INET, 0, 0), 6: struct.pack("=BBH", socket.AF_INET6, 0, 0)}
"""struct nfgenmsg, by the version of IP."""
_TUPLE_ORIG, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST, _IP6_SRC, _IP6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_RECEIVE = 1 << 18
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tuple:
    """One direction of a flow."""

    protocol: int
    source: Address
    destination: Address
    destination_port: int


@dataclass(frozen=True)
class Flow:
    """A flow: what was sent, what is expected as an answer, and the attributes that name it to the kernel."""

    original: Tuple
    reply: Tuple
    name: bytes


def stale(flow: Flow, ports: Collection[int], address: Address) -> bool:
    """Whether a UDP flow goes to the container at `address`, or to one of the host's `ports` itself; pure."""
    if flow.original.protocol != socket.IPPROTO_UDP:
        return False
    redirected = flow.reply.source == address and flow.original.destination != address
    plain = flow.reply.source == flow.original.destination and flow.reply.destination == flow.original.source
    return redirected or (plain and flow.original.destination_port in ports)


def forget_udp(ports: Collection[int], address: Address) -> int:
    """Forget the flows that are `stale`; how many. Blocks. Raises as `shoald.host.syscall.failure` does."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
            kernel.settimeout(_TIMEOUT_S)
            generic = _GENERIC[address.version]
            kernel.send(Request(_GET, NLM_F_DUMP, generic, "list flows").encode(1))
            found = [flow for flow in _answers(kernel) if stale(flow, ports, address)]
            for number, flow in enumerate(found, 2):
                kernel.send(Request(_DELETE, 0, generic + flow.name, "forget flow").encode(number))
                list(_answers(kernel))
            return len(found)
    except OSError as error:
        raise failure("forget flows", error.errno or errno.ETIMEDOUT) from error


def _answers(kernel: socket.socket) -> Iterator[Flow]:
    """The flows up to the end of an answer; one that is gone already (ENOENT) is no error."""
    while True:
        for message in netlink.parse(kernel.recv(_RECEIVE)):
            if message.kind in (_NLMSG_DONE, _NLMSG_ERROR):
                code = -struct.unpack_from("=i", message.payload)[0] if len(message.payload) >= 4 else 0
                if code not in (0, errno.ENOENT):
                    raise OSError(code, "conntrack")
                return
            flow = parse_flow(message.payload)
            if flow is not None:
                yield flow


def parse_flow(payload: bytes) -> Flow | None:
    """The flow of a message; None when it isn't IP with ports; pure."""
    found = dict(netlink.attributes(payload[len(_GENERIC[4]) :]))
    try:
        original, reply = _tuple(found[_TUPLE_ORIG]), _tuple(found[_TUPLE_REPLY])
        name = netlink.nested(_TUPLE_ORIG, found[_TUPLE_ORIG]) + netlink.attribute(_ID, found[_ID])
    except (KeyError, ValueError, struct.error):
        return None
    return Flow(original, reply, name)


def _tuple(attribute: bytes) -> Tuple:
    parts = dict(netlink.attributes(attribute))
    addresses, protocol = (dict(netlink.attributes(parts[part])) for part in (_TUPLE_IP, _TUPLE_PROTO))
    return Tuple(
        protocol=protocol[_PROTO_NUM][0],
        source=_address(addresses, _IP_SRC, _IP6_SRC),
        destination=_address(addresses, _IP_DST, _IP6_DST),
        destination_port=struct.unpack("!H", protocol.get(_PROTO_DST_PORT, b"\0\0"))[0],
    )


def _address(attributes: dict[int, bytes], kind: int, kind6: int) -> Address:
    return IPv6Address(attributes[kind6]) if kind6 in attributes else IPv4Address(attributes[kind])
