"""Addresses that mean something else, or more, to the host than to others: a Dockerfile must not read from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from shoald.host.links import links
from shoald.host.netlink import NetlinkSocket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

# Services of clouds that tell a machine its own secrets, where the address is not a link-local one.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")))
# Prefixes whose addresses end with the IPv4 address that is meant: IPv4-compatible, and NAT64 (RFC 6052, RFC 8215).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")))


def own_addresses() -> list[Subnet]:
    """The addresses of the host's own interfaces, each as a network of one. Blocking."""
    with NetlinkSocket() as rtnl:
        return [ipaddress.ip_network(each.ip) for link in links(rtnl) for each in link.addresses]


def subnets(texts: Iterable[str]) -> list[Subnet]:
    """Networks in CIDR notation."""
    return [ipaddress.ip_network(text) for text in texts]


def is_local(address: str, refused: Sequence[Subnet] = ()) -> bool:
    """Whether an address is one of the host alone, or in one of the networks that are `refused` besides. Raises
    ValueError for what is no address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return any(_is_local(each, refused) for each in (found, *_embedded(found)))


def _is_local(found: Address, refused: Sequence[Subnet]) -> bool:
    if found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast or found in _METADATA:
        return True
    return any(found in subnet for subnet in refused)


def _embedded(found: Address) -> list[Address]:
    """The IPv4 addresses that gateways may take an IPv6 address for."""
    if not isinstance(found, ipaddress.IPv6Address):
        return []
    last = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if any(found in each for each in _EMBEDDING) else None
    return [each for each in (found.ipv4_mapped, found.sixtofour, last) if each is not None]
