"""Which of its networks leads a container out: the first one that is not internal; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from shoal.errors import FailedPrecondition
from shoald.model.network import Address
from shoald.network.ports import Endpoint


def way(endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """Through which a container reaches the world by IPv4."""
    return next((each for each in endpoints if not each.internal), None)


def way6(endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """And by IPv6."""
    return next((each for each in endpoints if not each.internal and each.ip6_address), None)


def ways(endpoints: Sequence[Endpoint]) -> list[tuple[Address, str]]:
    """Default gateways, and the MACs of the interfaces that lead to them."""
    first, first6 = way(endpoints), way6(endpoints)
    found: list[tuple[Address, str]] = []
    if first is not None:
        found.append((ipaddress.IPv4Address(first.gateway), first.mac_address))
    if first6 is not None:
        found.append((ipaddress.IPv6Address(first6.gateway6), first6.mac_address))
    return found


def no_ipv6() -> FailedPrecondition:
    """The refusal of a port on an IPv6 address (IPV6_PUBLISH)."""
    return FailedPrecondition(
        "a port can't be published on an IPv6 address: the container has none itself",
        reason="IPV6_PUBLISH",
        hint="use a network that was created with --ipv6, or publish on an IPv4 address",
    )
