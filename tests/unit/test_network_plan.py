"""What requests for networks mean, names of bridges, files of the name server; all pure."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest

from shoal.errors import AlreadyExists, InvalidArgument, ResourceExhausted, ShoalError
from shoald.model.container import ContainerSpec, Membership
from shoald.model.network import Network, NetworkRequest
from shoald.network.addressing import (
    asked_memberships,
    bridge_name,
    check_membership,
    check_name,
    free_subnet,
    free_subnet6,
    is_bridge_name,
    options_of,
    overlapping,
    plan_of,
)
from shoald.network.dns import NOWHERE, Entry, Zone
from shoald.network.ports import Endpoint
from shoald.network.sockets import parse_sockets
from shoald.network.ways import ways
from shoald.network.wiring import routes

NETWORK = Network(
    "d" * 64, "net", datetime(2026, 1, 1, tzinfo=UTC), "b", ("10.5.0.0/24", "fd00::/64"), ("10.5.0.1", "fd00::1")
)
PLAIN = Network("bridge", "bridge", datetime(2026, 1, 1, tzinfo=UTC), "b", ("10.6.0.0/24",), ("10.6.0.1",))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"subnets": ("10.5.0.1/24",)}, "INVALID_SUBNET"),
        ({"subnets": ("10.5.0.0",)}, "INVALID_SUBNET"),
        ({"subnets": ("10.5.0.0/31",)}, "INVALID_SUBNET"),
        ({"subnets": ("0.0.0.0/0",)}, "INVALID_SUBNET"),
        ({"subnets": ("127.0.0.0/8",)}, "INVALID_SUBNET"),
        ({"subnets": ("ff00::/16",)}, "INVALID_SUBNET"),
        ({"subnets": ("x",)}, "INVALID_SUBNET"),
        ({"subnets": ("10.5.0.0/24", "10.6.0.0/24")}, "INVALID_SUBNET"),
        ({"gateways": ("10.5.0.1",)}, "INVALID_GATEWAY"),
        ({"subnets": ("10.5.0.0/24",), "gateways": ("10.6.0.1",)}, "INVALID_GATEWAY"),
        ({"subnets": ("10.5.0.0/24",), "gateways": ("10.5.0.255",)}, "INVALID_GATEWAY"),
        ({"subnets": ("10.5.0.0/24",), "gateways": ("10.5.0.0",)}, "INVALID_GATEWAY"),
        ({"subnets": ("10.5.0.0/24",), "gateways": ("fd00::1",)}, "INVALID_GATEWAY"),
        ({"subnets": ("10.5.0.0/24",), "ip_range": "10.6.0.0/25"}, "INVALID_IP_RANGE"),
        ({"ip_range": "10.6.0.0/25"}, "INVALID_IP_RANGE"),
        ({"subnets": ("10.5.0.0/24",), "ip_range": "10.5.0.1/25"}, "INVALID_IP_RANGE"),
    ],
)
def test_requests_that_make_no_sense(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan_of(NetworkRequest("net", **fields))
    assert caught.value.reason == reason


def test_an_ipv6_subnet_asks_for_ipv6() -> None:
    plan = plan_of(NetworkRequest("net", subnets=("fd00::/64",)))
    assert (plan.subnet, plan.subnet6, plan.ipv6) == (None, ipaddress.IPv6Network("fd00::/64"), True)


@pytest.mark.parametrize(
    "options",
    [{"mtu": "10"}, {"mtu": "9" * 5000}, {"mtu": "x"}, {"icc": "maybe"}, {"com.docker.network.bridge.name": "b"}],
)
def test_options_that_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        options_of(options)
    assert caught.value.reason == "INVALID_NETWORK_OPTION"


def test_options() -> None:
    found = options_of({"com.docker.network.driver.mtu": "1400", "icc": "false", "isolate": "False"})
    assert (found.mtu, found.icc, found.isolated) == (1400, False, False)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a" * 64, "container:x", "../x", "a\n"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_name(name)


@pytest.mark.parametrize("name", ["bridge", "host", "none", "default"])
def test_names_that_are_taken(name: str) -> None:
    with pytest.raises(AlreadyExists):
        check_name(name)


@pytest.mark.parametrize("default", ["shoal0", "b", "shoalbx1-2", "a-long-bridge-x"])
def test_names_of_bridges(default: str) -> None:
    name = bridge_name(default, "0123456789abcdef" * 4)
    assert len(name) == 15
    assert is_bridge_name(default, name)
    assert not is_bridge_name("other", name)
    assert not is_bridge_name(default, default)
    assert not is_bridge_name(default, name[:-1] + "x")


def test_free_subnets() -> None:
    pool = ipaddress.IPv4Network("10.0.0.0/22")
    taken = [ipaddress.ip_network(text) for text in ("10.0.0.0/24", "10.0.1.128/30", "0.0.0.0/32", "fd00::/8")]
    assert free_subnet(pool, 24, taken) == ipaddress.IPv4Network("10.0.2.0/24")
    with pytest.raises(ResourceExhausted):
        free_subnet(pool, 24, [ipaddress.ip_network("10.0.0.0/8")])
    first = free_subnet6("host", [])
    assert first.network_address.is_private
    assert free_subnet6("host", [first]) != first
    assert free_subnet6("other", []) != first
    used: dict[Any, str] = {ipaddress.ip_network("10.0.0.0/8"): "interface x"}
    assert "interface x" in overlapping(pool, used)
    assert overlapping(ipaddress.ip_network("fd00::/64"), used) == ""


@pytest.mark.parametrize(
    ("network", "membership"),
    [
        (NETWORK, Membership("d", "10.5.0.1")),
        (NETWORK, Membership("d", "10.5.0.255")),
        (NETWORK, Membership("d", "10.6.0.2")),
        (NETWORK, Membership("d", "x")),
        (NETWORK, Membership("d", "fd00::2")),
        (NETWORK, Membership("d", "", "fd01::2")),
        (NETWORK, Membership("d", mac_address="01:00:00:00:00:01")),
        (NETWORK, Membership("d", mac_address="zz")),
        (NETWORK, Membership("d", aliases=("a b",))),
        (NETWORK, Membership("d", aliases=("a,b",))),
        (PLAIN, Membership("bridge", aliases=("a",))),
        (PLAIN, Membership("bridge", "10.6.0.9")),
        (PLAIN, Membership("bridge", "", "fd00::9")),
    ],
)
def test_memberships_that_make_no_sense(network: Network, membership: Membership) -> None:
    with pytest.raises(InvalidArgument):
        check_membership(network, membership)


def test_memberships() -> None:
    check_membership(NETWORK, Membership("d", "10.5.0.9", "fd00::9", "02:00:00:00:00:01", ("db", "db.internal")))
    spec = ContainerSpec("i", network="a", network_aliases=("x",), more_networks=(Membership("b"),))
    assert asked_memberships(spec) == (Membership("a", aliases=("x",)), Membership("b"))
    assert asked_memberships(ContainerSpec("i", network="container:x")) == ()
    for spec in (
        ContainerSpec("i", network="host", more_networks=(Membership("b"),)),
        ContainerSpec("i", network="a", more_networks=(Membership("none"),)),
        ContainerSpec("i", network="none", network_aliases=("x",)),
    ):
        with pytest.raises(ShoalError):
            asked_memberships(spec)


def test_the_way_out() -> None:
    inner = Endpoint("10.1.0.2", 24, "10.1.0.1", "m1", "inner", "fd01::2", 64, "fd01::1", internal=True)
    outer = Endpoint("10.2.0.2", 24, "10.2.0.1", "m2", "outer")
    dual = Endpoint("10.3.0.2", 24, "10.3.0.1", "m3", "dual", "fd03::2", 64, "fd03::1")
    assert ways([inner]) == []
    found = [(str(address), mac) for address, mac in ways([inner, outer, dual])]
    assert found == [("10.2.0.1", "m2"), ("fd03::1", "m3")]


def test_files_of_the_name_server() -> None:
    entries = (
        Entry("c1", ("10.5.0.2",), ("fd00::2",), ("web", "www")),
        Entry("c2", ("10.5.0.3",), (), ("db",), ("192.0.2.53",)),
    )
    zone = Zone("n1", ("10.5.0.1", "fd00::1"), False, entries)
    assert (zone.file, zone.text) == (
        "n1",
        "10.5.0.1,fd00::1\nc1 10.5.0.2 fd00::2 web,www\nc2 10.5.0.3  db 192.0.2.53\n",
    )
    inner = Zone("n1", ("10.5.0.1",), True, ())
    assert (inner.file, inner.text) == ("n1%int", f"10.5.0.1 {NOWHERE}\n")


def test_tables_of_the_kernel() -> None:
    udp = (
        "  sl  local_address rem_address\n"
        " 1: 0100007F:0035 00000000:0000 07 0:0 00:0 0 0 0 11 2\n"
        " 2: 0180D10A:0035 00000000:0000 07 0:0 00:0 0 0 0 22 2\n"
    )
    assert parse_sockets(udp, 53) == {"127.0.0.1": 11, "10.209.128.1": 22}
    assert parse_sockets(udp, 54) == {}
    text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n" + "eth0 00000000 0 0 0 0 0 00000000\n"
    assert routes(text + "b0 0000D10A 0 0 0 0 0 00F0FFFF\n") == [(ipaddress.IPv4Network("10.209.0.0/20"), "b0")]
