"""Links into a real network namespace, and real nft tables."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_interface

import pytest

from shoal.errors import Internal, InvalidArgument, NotFound, ShoalError
from shoald.host import links, nft
from shoald.host.links import Endpoint, connect_netns, delete_link, ensure_bridge, find_link
from shoald.host.netlink import NetlinkSocket, open_netns
from shoald.host.process import PIPE, Process, run, spawn

pytestmark = pytest.mark.root

BRIDGE = f"stb{os.getpid() % 100000}"
VETH = f"stv{os.getpid() % 100000}"
TABLE = f"shoal_test_{os.getpid()}"
MAC = "02:53:48:00:00:01"
BRIDGE_ADDRESSES = (ip_interface("10.231.77.1/24"), ip_interface("fd53:4c::1/64"))
ENDPOINT = Endpoint(
    name="eth0",
    mac="02:53:48:00:00:07",
    addresses=(ip_interface("10.231.77.7/24"), ip_interface("fd53:4c::7/64")),
    gateways=(ip_address("10.231.77.1"), ip_address("fd53:4c::1")),
    mtu=1400,
)


@pytest.fixture
def rtnl() -> Iterator[NetlinkSocket]:
    threads = threading.active_count()
    with NetlinkSocket() as opened:
        try:
            yield opened
        finally:
            for link in links.links(opened):
                if link.name.startswith((BRIDGE, VETH)):
                    delete_link(opened, link.name)
    assert threading.active_count() <= threads


@pytest.fixture(params=["--net", "--net --user"])
async def container(request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    """A process in a network namespace of its own, owned by the host or by a user namespace."""
    async with await spawn(["unshare", *request.param.split(), "--", "cat"], stdin=PIPE, stdout=PIPE) as child:
        child.stdin.write(b"\n")
        await child.stdout.readexactly(1)
        yield child


@pytest.fixture
def netns(container: Process) -> Iterator[int]:
    fd = open_netns(container.pid)
    try:
        yield fd
    finally:
        os.close(fd)


async def inside(netns: int, *argv: str) -> str:
    enter = ["nsenter", f"--net=/proc/self/fd/{netns}", "--", *argv]
    return (await run(enter, pass_fds=[netns])).stdout.decode()


def test_bridge_is_made_once(rtnl: NetlinkSocket) -> None:
    index = ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES, mtu=1450)
    assert ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES, mtu=1450) == index
    assert links.link_index(rtnl, BRIDGE) == index
    (found,) = (link for link in links.links(rtnl) if link.name == BRIDGE)
    assert (found.kind, found.mac, found.up, found.mtu) == ("bridge", MAC, True, 1450)
    assert set(BRIDGE_ADDRESSES) <= set(found.addresses)
    moved = (ip_interface("10.231.78.1/24"),)
    assert ensure_bridge(rtnl, BRIDGE, MAC, moved) == index
    (found,) = (link for link in links.links(rtnl) if link.name == BRIDGE)
    assert tuple(address for address in found.addresses if not address.ip.is_link_local) == moved
    links.sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet", 1)
    assert links.read_sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet") == "1"
    assert delete_link(rtnl, BRIDGE) is True
    assert delete_link(rtnl, BRIDGE) is False
    assert find_link(rtnl, BRIDGE) is None
    with pytest.raises(NotFound):
        links.link_index(rtnl, BRIDGE)
    with pytest.raises(NotFound):
        links.sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet", 1)


def test_the_name_of_another_kind_of_link_is_refused(rtnl: NetlinkSocket) -> None:
    with pytest.raises(InvalidArgument):
        ensure_bridge(rtnl, "lo", MAC, ())


async def test_a_namespace_is_wired_to_the_bridge(rtnl: NetlinkSocket, netns: int) -> None:
    own = os.readlink("/proc/self/ns/net")
    bridge = ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES)
    connect_netns(rtnl, VETH, bridge, netns, ENDPOINT)
    with NetlinkSocket(netns) as there:
        found = {link.name: link for link in links.links(there)}
    assert found["lo"].up
    eth0 = found["eth0"]
    assert (eth0.kind, eth0.mac, eth0.up, eth0.mtu) == ("veth", ENDPOINT.mac, True, 1400)
    assert set(ENDPOINT.addresses) <= set(eth0.addresses)
    assert "default via 10.231.77.1 dev eth0" in await inside(netns, "ip", "-4", "route")
    assert "default via fd53:4c::1 dev eth0" in await inside(netns, "ip", "-6", "route")
    host = find_link(rtnl, VETH)
    assert host is not None
    assert (host.master, host.up) == (bridge, True)
    with open(f"/sys/class/net/{VETH}/brport/hairpin_mode") as file:
        assert file.read() == "1\n"
    # No thread and no socket of ours went over.
    assert {os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")} == {own}


async def test_packets_pass(rtnl: NetlinkSocket, netns: int) -> None:
    bridge = ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES)
    connect_netns(rtnl, VETH, bridge, netns, ENDPOINT)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    for host in ("10.231.77.1", "fd53:4c::1"):
        server = await asyncio.start_server(answer, host, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            script = "import socket,sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).recv(99))"
            assert await inside(netns, "/usr/bin/env", "python3", "-c", script, host, str(port)) == "b'hello'\n"


async def test_isolated_port_without_gateway(rtnl: NetlinkSocket, netns: int) -> None:
    bridge = ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES)
    internal = Endpoint("eth0", ENDPOINT.mac, ENDPOINT.addresses[:1])
    connect_netns(rtnl, VETH, bridge, netns, internal, hairpin=False, isolated=True)
    assert "default" not in await inside(netns, "ip", "route")
    for name, value in (("hairpin_mode", "0"), ("isolated", "1")):
        with open(f"/sys/class/net/{VETH}/brport/{name}") as file:
            assert file.read().strip() == value


def test_a_failure_inside_takes_the_pair_away(rtnl: NetlinkSocket, netns: int) -> None:
    bridge = ensure_bridge(rtnl, BRIDGE, MAC, BRIDGE_ADDRESSES)
    unreachable = Endpoint("eth0", ENDPOINT.mac, ENDPOINT.addresses, (ip_address("203.0.113.1"),))
    with pytest.raises(ShoalError) as caught:
        connect_netns(rtnl, VETH, bridge, netns, unreachable)
    assert "203.0.113.1" in str(caught.value)
    # The kernel's own words.
    assert "gateway" in str(caught.value)
    assert find_link(rtnl, VETH) is None
    connect_netns(rtnl, VETH, bridge, netns, ENDPOINT)
    with pytest.raises(ShoalError) as caught:
        connect_netns(rtnl, VETH, bridge, netns, Endpoint("eth1", "02:53:48:00:00:08", ()))
    assert caught.value.code == "ALREADY_EXISTS"


def test_an_existing_pair_survives_a_second_attempt(rtnl: NetlinkSocket, netns: int) -> None:
    connect_netns(rtnl, VETH, None, netns, Endpoint("eth0", ENDPOINT.mac, ENDPOINT.addresses))
    with pytest.raises(ShoalError):
        connect_netns(rtnl, VETH, None, netns, Endpoint("eth1", ENDPOINT.mac, ()))
    assert find_link(rtnl, VETH) is not None


def test_not_a_namespace(rtnl: NetlinkSocket) -> None:
    with open("/dev/null") as file, pytest.raises(ShoalError):
        NetlinkSocket(file.fileno())
    with pytest.raises(NotFound):
        open_netns(2**22 + 1)


async def test_nft_is_atomic_and_says_why() -> None:
    table = f"table inet {TABLE} {{\n chain c {{\n  type filter hook input priority 0;\n  tcp dport 1 drop\n }}\n}}\n"
    try:
        await nft.apply(table)
        listed = await nft.list_table("inet", TABLE)
        assert listed is not None
        assert [next(iter(found)) for found in listed] == ["table", "chain", "rule"]
        with pytest.raises(Internal) as caught:
            await nft.apply(f"add rule inet {TABLE} c tcp dport 2 drop\nadd rule inet {TABLE} missing accept\n")
        assert caught.value.reason == "NFT_REFUSED"
        assert "missing" in str(caught.value)
        again = await nft.list_table("inet", TABLE)
        assert again == listed
    finally:
        await nft.delete_table("inet", TABLE)
    await nft.delete_table("inet", TABLE)
    assert await nft.list_table("inet", TABLE) is None


@pytest.mark.parametrize(
    ("family", "name"), [("inet; flush ruleset", "x"), ("inet", "x; flush"), ("inet", "-f"), ("", "x")]
)
async def test_nft_names_are_checked(family: str, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await nft.list_table(family, name)
    with pytest.raises(InvalidArgument):
        await nft.delete_table(family, name)
