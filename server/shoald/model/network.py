"""What the daemon knows of networks, and of a container's membership in one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct, field

from shoald.model.container import Container
from shoald.model.container import Membership as Membership

DEFAULT = "bridge"
"""Id and name of the network of containers that name none. It has no row: it is what the configuration says."""
ABSTRACT = ("host", "none")
"""Names of networks that are none: the host's own interfaces, and no interfaces at all."""

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(Struct, frozen=True):
    """A bridge network. `subnets` and `gateways` belong together: the IPv4 one first, perhaps an IPv6 one after it."""

    id: str
    """64 hex digits, or DEFAULT."""
    name: str
    created_at: datetime
    bridge: str
    """Name of the interface on the host."""
    subnets: tuple[str, ...]
    """In CIDR notation."""
    gateways: tuple[str, ...]
    """The bridge's own addresses."""
    ip_range: str = ""
    """The part of the IPv4 subnet that addresses are chosen from; empty: all of it."""
    internal: bool = False
    """No way out, and no names of outside."""
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    """As asked for; what they mean is in the next three."""
    mtu: int = 0
    """0: the host's default."""
    icc: bool = True
    """Whether its containers reach each other."""
    isolated: bool = True
    """Whether it is apart from all other networks of this daemon; two that are not reach each other."""
    request_id: str = ""

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """Its IPv4 subnet."""
        return ipaddress.IPv4Network(self.subnets[0])

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's IPv4 address."""
        return ipaddress.IPv4Address(self.gateways[0])

    @property
    def subnet6(self) -> ipaddress.IPv6Network | None:
        """Its IPv6 subnet, or None."""
        return ipaddress.IPv6Network(self.subnets[1]) if len(self.subnets) > 1 else None

    @property
    def gateway6(self) -> ipaddress.IPv6Address | None:
        """The bridge's IPv6 address, or None."""
        return ipaddress.IPv6Address(self.gateways[1]) if len(self.gateways) > 1 else None

    @property
    def ipv6(self) -> bool:
        """Whether its containers have IPv6 addresses."""
        return len(self.subnets) > 1

    @property
    def named(self) -> bool:
        """Whether its containers find each other by name: in all but the default one, as in Docker."""
        return self.id != DEFAULT


class NetworkRequest(Struct, frozen=True):
    """What a caller asks for; empty: chosen by the daemon."""

    name: str
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ip_range: str = ""
    internal: bool = False
    ipv6: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


class Member(Struct, frozen=True):
    """A container that names a network, and its addresses there while it runs."""

    container: Container
    membership: Membership
    ip_address: str = ""
    ip6_address: str = ""
    mac_address: str = ""


def abstract_network(name: str) -> Network:
    """ "host" or "none", as lists show it."""
    return Network(id=name, name=name, created_at=datetime.fromtimestamp(0, UTC), bridge="", subnets=(), gateways=())
