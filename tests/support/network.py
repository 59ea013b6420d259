"""Real bridge networks with names of their own, and machines to put on them: for tests that run as root."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shoald.host import links, nft
from shoald.host.netlink import NetlinkSocket, open_netns
from shoald.host.process import PIPE, Process, spawn
from shoald.metadata import Metadata
from shoald.network.addressing import is_bridge_name
from shoald.network.bridge import BridgeNetwork, BridgeSettings

NUMBER = os.getpid() % 200
SUBNET = ipaddress.IPv4Network(f"10.232.{NUMBER}.0/24")
LAN = ipaddress.IPv4Network(f"10.233.{NUMBER}.0/24")
BRIDGE = f"stn{os.getpid() % 100000}"
LINK = f"stl{os.getpid() % 100000}"
TABLE = f"shoal_test_net_{os.getpid()}"
PEER = Path(__file__).with_name("network_peer.py")
SHORT_S = 0.5
HOST = str(LAN.network_address + 1)
NEIGHBOUR = str(LAN.network_address + 2)
GATEWAY = str(SUBNET.network_address + 1)


POOL = ipaddress.IPv4Network(f"10.235.{NUMBER}.0/24")


def settings(
    subnet: ipaddress.IPv4Network = SUBNET, *, dns_program: str = "", dns_directory: Path = Path("/nonexistent")
) -> BridgeSettings:
    return BridgeSettings(
        BRIDGE, subnet, TABLE, "127.0.0.1", pool=POOL, dns_program=dns_program, dns_directory=dns_directory
    )


def new_id() -> str:
    return secrets.token_hex(32)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def real_network(md: Metadata, **changes: Any) -> AsyncIterator[BridgeNetwork]:
    """The real one, set up; everything of it is gone afterwards."""
    network = BridgeNetwork(md, settings(**changes))
    try:
        await network.setup()
        yield network
    finally:
        await network.teardown()
    assert await nft.list_table("ip", TABLE) is None
    assert await nft.list_table("ip6", TABLE) is None
    assert not [name for name in os.listdir("/sys/class/net") if name == BRIDGE or is_bridge_name(BRIDGE, name)]


class Peer:
    """A process of tests/support/network_peer.py in a network namespace of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    async def call(self, name: str, **arguments: Any) -> Any:
        self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        return json.loads(await self._process.stdout.readline())

    async def connect(self, host: str, port: int, timeout: float = 10.0) -> str:
        answer: str = await self.call("connect", host=host, port=port, timeout=timeout)
        return answer


@contextlib.asynccontextmanager
async def peer(name: str) -> AsyncIterator[Peer]:
    argv = ["unshare", "--net", "--", sys.executable, "-I", str(PEER), name]
    async with await spawn(argv, stdin=PIPE, stdout=PIPE) as process:
        assert json.loads(await process.stdout.readline()) == "ready"
        yield Peer(process)


@contextlib.asynccontextmanager
async def neighbour_of_host() -> AsyncIterator[Peer]:
    """A neighbour of the host, which routes everything through it."""
    host, neighbour = list(LAN.hosts())[:2]
    async with peer("neighbour") as there:
        with NetlinkSocket() as rtnl:
            netns = open_netns(there.pid)
            try:
                inside = links.Endpoint(
                    name="eth0",
                    mac="02:53:48:00:00:99",
                    addresses=(ipaddress.IPv4Interface((neighbour, LAN.prefixlen)),),
                    gateways=(),
                )
                links.connect_netns(rtnl, LINK, None, netns, inside)
                index = links.link_index(rtnl, LINK)
                rtnl.send([links.address_request(index, ipaddress.IPv4Interface((host, LAN.prefixlen)))])
                with NetlinkSocket(netns) as there_rtnl:
                    eth0 = links.link_index(there_rtnl, "eth0")
                    there_rtnl.send([links.default_route_request(eth0, host)])
                yield there
            finally:
                os.close(netns)
                links.delete_link(rtnl, LINK)


def link_mac(name: str) -> str:
    return Path(f"/sys/class/net/{name}/address").read_text().strip()


async def ask(host: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return (await reader.read(100)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def until_seen(peer: Peer, data: str) -> list[str]:
    async with asyncio.timeout(10):
        while data not in (found := await peer.call("seen")):
            await asyncio.sleep(0.02)
    return list(found)
