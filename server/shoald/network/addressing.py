"""What a request for a network means: subnets, gateways, options; pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from shoald.model.container import ContainerSpec
from shoald.model.network import ABSTRACT, Address, Membership, Network, NetworkRequest, Subnet

RESERVED = ("bridge", "host", "none", "default")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_ALIAS = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_])?")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_INTERFACE = 15
_DIGITS = 6
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_MTUS = ("mtu", "com.docker.network.driver.mtu")
_ICC = ("icc", "com.docker.network.bridge.enable_icc")
_ISOLATE = ("isolate",)


@dataclass(frozen=True)
class Options:
    """Of a network, understood."""

    mtu: int = 0
    icc: bool = True
    isolated: bool = True


def check_name(name: str) -> None:
    """Raises InvalidArgument (INVALID_NETWORK_NAME), AlreadyExists (NETWORK_EXISTS) for a name that is reserved."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid network name {name[:80]!r}: 1 to 63 of [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            reason="INVALID_NETWORK_NAME",
        )
    if name in RESERVED:
        raise AlreadyExists(f"the network name {name} is reserved", reason="NETWORK_EXISTS", hint="choose another name")


def options_of(options: Mapping[str, str]) -> Options:
    """Raises InvalidArgument (INVALID_NETWORK_OPTION)."""
    mtu, flags = 0, {"icc": True, "isolated": True}
    for key, value in options.items():
        if key in _MTUS:
            if not (value.isascii() and value.isdigit() and 576 <= int(value[:6]) <= 65535):
                raise _bad_option(f"{key} must be 576 to 65535, not {value[:40]!r}")
            mtu = int(value)
        elif key in _ICC or key in _ISOLATE:
            if value.lower() not in _BOOLEANS:
                raise _bad_option(f"{key} must be true or false, not {value[:40]!r}")
            flags["icc" if key in _ICC else "isolated"] = _BOOLEANS[value.lower()]
        else:
            raise _bad_option(f"unknown option {key[:80]!r}")
    return Options(mtu, **flags)


def _bad_option(message: str) -> InvalidArgument:
    known = ", ".join((*_MTUS, *_ICC, *_ISOLATE))
    return InvalidArgument(message, reason="INVALID_NETWORK_OPTION", hint=f"known are {known}")


@dataclass(frozen=True)
class Plan:
    """Subnets and gateways as asked for; None: to be chosen."""

    subnet: ipaddress.IPv4Network | None = None
    gateway: ipaddress.IPv4Address | None = None
    ip_range: ipaddress.IPv4Network | None = None
    subnet6: ipaddress.IPv6Network | None = None
    gateway6: ipaddress.IPv6Address | None = None
    ipv6: bool = False


def plan_of(request: NetworkRequest) -> Plan:
    """Raises InvalidArgument (INVALID_SUBNET, INVALID_GATEWAY, INVALID_IP_RANGE)."""
    subnet, subnet6 = _pair([parse_subnet(text) for text in request.subnets], "subnet", "INVALID_SUBNET")
    gateway, gateway6 = _pair([parse_address(text, "gateway", "INVALID_GATEWAY") for text in request.gateways],
                              "gateway", "INVALID_GATEWAY")  # fmt: skip
    assert subnet is None or isinstance(subnet, ipaddress.IPv4Network)
    assert subnet6 is None or isinstance(subnet6, ipaddress.IPv6Network)
    assert gateway is None or isinstance(gateway, ipaddress.IPv4Address)
    assert gateway6 is None or isinstance(gateway6, ipaddress.IPv6Address)
    _check_gateway(subnet, gateway)
    _check_gateway(subnet6, gateway6)
    ip_range = _ip_range(request.ip_range, subnet) if request.ip_range else None
    return Plan(subnet, gateway, ip_range, subnet6, gateway6, ipv6=request.ipv6 or subnet6 is not None)


def parse_subnet(text: str) -> Subnet:
    """Raises InvalidArgument (INVALID_SUBNET)."""
    try:
        subnet = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(
            f"invalid subnet {text[:80]!r}: {error}", reason="INVALID_SUBNET", hint="write it as 10.5.0.0/24"
        ) from None
    longest = 29 if subnet.version == 4 else 125
    if not 8 <= subnet.prefixlen <= longest or "/" not in text:
        raise InvalidArgument(f"invalid subnet {text}: its prefix must be /8 to /{longest}", reason="INVALID_SUBNET")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_link_local or subnet.is_unspecified:
        raise InvalidArgument(f"the subnet {text} can't be used for containers", reason="INVALID_SUBNET")
    return subnet


def parse_address(text: str, what: str, reason: str) -> Address:
    """Raises InvalidArgument with this reason."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text[:80]!r}: not an IP address", reason=reason) from None


def _pair(values: Sequence[Subnet] | Sequence[Address], what: str, reason: str) -> tuple[object, object]:
    found: dict[int, object] = {}
    for value in values:
        if value.version in found:
            raise InvalidArgument(
                f"more than one IPv{value.version} {what}: {found[value.version]} and {value}", reason=reason
            )
        found[value.version] = value
    return found.get(4), found.get(6)


def _check_gateway(subnet: Subnet | None, gateway: Address | None) -> None:
    if gateway is None:
        return
    if subnet is None:
        raise InvalidArgument(f"the gateway {gateway} needs a subnet", reason="INVALID_GATEWAY", hint="add --subnet")
    check_host_address(subnet, gateway, "gateway", "INVALID_GATEWAY")


def check_host_address(subnet: Subnet, address: Address, what: str, reason: str) -> None:
    """That it can be the address of a machine in a subnet. Raises InvalidArgument with this reason."""
    usable = address.version == subnet.version and address in subnet and address != subnet.network_address
    if not usable or (subnet.version == 4 and address == subnet.broadcast_address):
        raise InvalidArgument(f"{what} {address} is not an address for a machine in {subnet}", reason=reason)


def _ip_range(text: str, subnet: ipaddress.IPv4Network | None) -> ipaddress.IPv4Network:
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid IP range {text[:80]!r}: {error}", reason="INVALID_IP_RANGE") from None
    if subnet is None or not found.subnet_of(subnet):
        raise InvalidArgument(
            f"the IP range {found} is not a part of the subnet {subnet or '(none was given)'}",
            reason="INVALID_IP_RANGE",
        )
    return found


def free_subnet(pool: ipaddress.IPv4Network, prefix: int, taken: Iterable[Subnet]) -> ipaddress.IPv4Network:
    """The lowest subnet of the pool that overlaps nothing. Raises ResourceExhausted (NO_FREE_SUBNET)."""
    ours = [subnet for subnet in taken if isinstance(subnet, ipaddress.IPv4Network) and subnet.overlaps(pool)]
    for subnet in pool.subnets(new_prefix=prefix):
        if not any(subnet.overlaps(other) for other in ours):
            return subnet
    raise ResourceExhausted(
        f"all subnets of {pool} are in use",
        reason="NO_FREE_SUBNET",
        hint="name one with --subnet, or give the daemon another network.pool",
    )


def free_subnet6(host_id: str, taken: Iterable[Subnet]) -> ipaddress.IPv6Network:
    """A unique local /64 (RFC 4193) of the /48 that belongs to this daemon."""
    digest = hashlib.sha256(f"shoal networks of {host_id}".encode()).digest()
    ours = {int(subnet.network_address) for subnet in taken if subnet.version == 6}
    base = int.from_bytes(b"\xfd" + digest[:5] + bytes(10), "big")
    for number in range(1, 1 << 16):
        if (first := base + (number << 64)) not in ours:
            return ipaddress.IPv6Network((first, 64))
    raise ResourceExhausted("all IPv6 subnets are in use", reason="NO_FREE_SUBNET")


def overlapping(wanted: Subnet, others: Mapping[Subnet, str]) -> str:
    """What a subnet overlaps, for people; "" when nothing."""
    for other, whose in others.items():
        if wanted.version == other.version and wanted.overlaps(other):
            return f"{other} of {whose}"
    return ""


def bridge_prefix(default: str) -> str:
    """How the names of all bridges of user-defined networks of a daemon begin: that of its default bridge tells whose
    they are."""
    if len(default) + 1 + _DIGITS <= _INTERFACE:
        return f"{default}-"
    return hashlib.sha256(default.encode()).hexdigest()[:7] + "-"


def bridge_name(default: str, network_id: str) -> str:
    """At most 15 characters, the kernel's limit."""
    prefix = bridge_prefix(default)
    return prefix + network_id[: _INTERFACE - len(prefix)]


def is_bridge_name(default: str, name: str) -> bool:
    """Whether `bridge_name` makes such a name."""
    prefix = bridge_prefix(default)
    digits = name.removeprefix(prefix)
    return name.startswith(prefix) and len(name) == _INTERFACE and not set(digits) - set("0123456789abcdef")


def asked_memberships(spec: ContainerSpec) -> Sequence[Membership]:
    """The networks that a request names. Raises InvalidArgument (CONFLICTING_OPTIONS)."""
    if spec.network in ABSTRACT or spec.network.startswith("container:"):
        if spec.more_networks or spec.network_aliases:
            raise InvalidArgument(
                f"a container with the network {spec.network} can't be in other networks, or have aliases",
                reason="CONFLICTING_OPTIONS",
            )
        return ()
    if any(each.network in ABSTRACT or ":" in each.network for each in spec.more_networks):
        raise InvalidArgument("host and none can't be combined with other networks", reason="CONFLICTING_OPTIONS")
    first = Membership(spec.network, spec.ip_address, spec.ip6_address, spec.mac_address, spec.network_aliases)
    return (first, *spec.more_networks)


def check_membership(network: Network, membership: Membership) -> None:
    """Raises InvalidArgument (INVALID_IP_ADDRESS, INVALID_ALIAS, CONFLICTING_OPTIONS)."""
    if not network.named and (membership.aliases or membership.ip_address or membership.ip6_address):
        what = "aliases" if membership.aliases else "chosen addresses"
        raise InvalidArgument(
            f"{what} are supported in user-defined networks only",
            reason="CONFLICTING_OPTIONS",
            hint="create a network and name it with --network",
        )
    for text, subnet, gateway in (
        (membership.ip_address, network.subnet, network.gateway),
        (membership.ip6_address, network.subnet6, network.gateway6),
    ):
        if not text:
            continue
        address = parse_address(text, "IP address", "INVALID_IP_ADDRESS")
        if subnet is None:
            raise InvalidArgument(
                f"network {network.name} has no IPv6", reason="INVALID_IP_ADDRESS", hint="create it with --ipv6"
            )
        check_host_address(subnet, address, "IP address", "INVALID_IP_ADDRESS")
        if address == gateway:
            raise InvalidArgument(f"{address} is the gateway of network {network.name}", reason="INVALID_IP_ADDRESS")
    for alias in membership.aliases:
        if not _ALIAS.fullmatch(alias):
            raise InvalidArgument(f"invalid network alias {alias[:80]!r}", reason="INVALID_ALIAS")
    check_mac(membership.mac_address)


def check_mac(text: str) -> None:
    """Raises InvalidArgument (INVALID_MAC_ADDRESS) for one that no single machine can have."""
    if text and (not _MAC.fullmatch(text) or int(text[:2], 16) & 1):
        raise InvalidArgument(f"{text[:40]!r} is no MAC address of a machine", reason="INVALID_MAC_ADDRESS")
