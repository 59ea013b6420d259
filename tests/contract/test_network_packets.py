"""The bridge network with real packets: who reaches whom, and what becomes of rules and interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, NotFound
from shoald.host import nft
from shoald.host.process import run, spawn
from shoald.metadata import Metadata
from shoald.model.container import PortMapping
from shoald.network.bridge import BridgeNetwork
from tests.support.network import (
    BRIDGE,
    GATEWAY,
    HOST,
    LINK,
    NEIGHBOUR,
    SHORT_S,
    TABLE,
    Peer,
    ask,
    free_port,
    link_mac,
    neighbour_of_host,
    new_id,
    peer,
    real_network,
    settings,
    until_seen,
)

pytestmark = pytest.mark.root


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
async def bridge(md: Metadata) -> AsyncIterator[BridgeNetwork]:
    async with real_network(md) as network:
        yield network


class Container:
    """A peer that is connected to the bridge."""

    def __init__(self, peer: Peer, owner: str, address: str, ports: tuple[PortMapping, ...]) -> None:
        self.peer, self.owner, self.address, self.ports = peer, owner, address, ports


Start = Callable[..., Awaitable[Container]]


@pytest.fixture
async def start(bridge: BridgeNetwork) -> AsyncIterator[Start]:
    """Start containers that publish the ports given; all are released at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(name: str, *ports: PortMapping) -> Container:
            started = await stack.enter_async_context(peer(name))
            owner = new_id()
            endpoint, given = await bridge.allocate(owner, ports)
            stack.push_async_callback(bridge.release, owner)
            await bridge.connect(owner, started.pid)
            return Container(started, owner, endpoint.ip_address, given)

        yield begin


@pytest.fixture
async def lan() -> AsyncIterator[Peer]:
    async with neighbour_of_host() as there:
        yield there


class TestPackets:
    async def test_a_port_on_loopback(self, start: Start) -> None:
        web = await start("web", PortMapping(80))
        (port,) = web.ports
        assert await ask("127.0.0.1", port.host_port) == f"web {GATEWAY}"
        assert await ask(web.address, 80) == f"web {GATEWAY}"

    async def test_a_port_on_every_address(self, start: Start, lan: Peer) -> None:
        web = await start("web", PortMapping(80, "0.0.0.0"))
        (port,) = web.ports
        for address in ("127.0.0.1", GATEWAY, HOST):
            assert (await ask(address, port.host_port)).startswith("web ")
        assert await lan.connect(HOST, port.host_port) == f"web {NEIGHBOUR}"

    async def test_containers_reach_each_other_and_themselves(self, start: Start) -> None:
        one = await start("one", PortMapping(80, "0.0.0.0"))
        two = await start("two")
        (port,) = one.ports
        assert await two.peer.connect(one.address, 80) == f"one {two.address}"
        assert (await one.peer.connect(GATEWAY, port.host_port)).startswith("one ")  # hairpin
        assert (await two.peer.connect(GATEWAY, port.host_port)).startswith("one ")

    async def test_containers_go_out_under_the_hosts_address(self, start: Start, lan: Peer) -> None:
        web = await start("web")
        assert await web.peer.connect(NEIGHBOUR, 80) == f"neighbour {HOST}"

    async def test_the_neighbour_reaches_published_ports_only(self, start: Start, lan: Peer) -> None:
        web = await start("web", PortMapping(80, "0.0.0.0"), PortMapping(80, "127.0.0.1"))
        ports = {port.host_ip: port.host_port for port in web.ports}
        assert await lan.connect(HOST, ports["0.0.0.0"]) == f"web {NEIGHBOUR}"
        assert (await lan.connect(web.address, 80, SHORT_S)).startswith("error: timed out")
        assert (await lan.connect(HOST, ports["127.0.0.1"], SHORT_S)).startswith("error:")

    async def test_the_neighbour_reaches_no_port_on_loopback(self, start: Start, lan: Peer) -> None:
        """A frame for 127.0.0.1 from the link is not redirected (moby#45610)."""
        web = await start("web", PortMapping(80, "127.0.0.1", 0, "udp"), PortMapping(80, "0.0.0.0", 0, "udp"))
        ports = {port.host_ip: port.host_port for port in web.ports}
        frame = {"interface": "eth0", "mac": link_mac(LINK), "source": NEIGHBOUR}
        for target, port, data in (
            ("127.0.0.1", ports["127.0.0.1"], "loopback"),
            ("127.0.0.1", ports["0.0.0.0"], "loopback through any"),
            (web.address, 80, "container"),
            (HOST, ports["0.0.0.0"], "control"),
        ):
            await lan.call("frame", **frame, target=target, port=port, data=data)
        assert await until_seen(web.peer, "control") == ["control"]

    async def test_a_container_reaches_no_loopback_service_of_the_host(self, start: Start) -> None:
        """The bridge accepts 127.0.0.0/8 for published ports (the class of CVE-2020-8558)."""
        web = await start("web")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
            service.bind(("0.0.0.0", 0))
            service.setblocking(False)
            frame = {"interface": "eth0", "mac": link_mac(BRIDGE), "port": service.getsockname()[1]}
            for source, target, data in (
                (web.address, "127.0.0.1", "loopback"),
                ("10.99.99.99", GATEWAY, "spoofed"),
                ("127.0.0.1", GATEWAY, "spoofed loopback"),
                (web.address, GATEWAY, "control"),
            ):
                await web.peer.call("frame", **frame, source=source, target=target, data=data)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(service, 100), 10) == b"control"

    async def test_a_udp_flow_finds_the_port_that_is_published_later(self, bridge: BridgeNetwork, start: Start) -> None:
        number = free_port(socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind((GATEWAY, 0))
            client.sendto(b"early", (GATEWAY, number))
            web = await start("web", PortMapping(80, "0.0.0.0", number, "udp"))
            with contextlib.suppress(ConnectionRefusedError):
                client.sendto(b"again", (GATEWAY, number))
            loop = asyncio.get_running_loop()
            assert (await asyncio.wait_for(loop.sock_recv(client, 100), 10)).startswith(b"web ")
            # And it does not follow the address to whoever has it next.
            await bridge.release(web.owner)
            heir = await start("heir")
            assert heir.address == web.address
            with contextlib.suppress(ConnectionRefusedError):
                client.sendto(b"late", (GATEWAY, number))
            await heir.peer.call("send", host="127.0.0.1", port=80, data="control", timeout=10)
            assert "late" not in await heir.peer.call("seen")


class TestLife:
    async def test_close_and_reopen(self, bridge: BridgeNetwork, start: Start) -> None:
        web = await start("web", PortMapping(80))
        (port,) = web.ports
        for _ in range(2):
            await bridge.disconnect(web.owner)
        with pytest.raises(ConnectionRefusedError):
            await ask("127.0.0.1", port.host_port)
        # At once, while the host's end is still being removed: as a restart does.
        await bridge.connect(web.owner, web.peer.pid)
        assert (await ask("127.0.0.1", port.host_port)).startswith("web ")
        await bridge.connect(web.owner, web.peer.pid)
        assert (await ask("127.0.0.1", port.host_port)).startswith("web ")

    async def test_a_failed_connect_leaves_nothing(self, bridge: BridgeNetwork) -> None:
        owner = new_id()
        await bridge.allocate(owner, [PortMapping(80)])
        async with await spawn(["true"]) as gone:
            await gone.wait()
        with pytest.raises(NotFound):
            await bridge.connect(owner, gone.pid)
        found = await nft.list_table("ip", TABLE) or []
        assert not [o for o in found if "map" in o and o["map"].get("elem")]
        assert f"sh{owner[:12]}" not in os.listdir("/sys/class/net")

    async def test_a_new_daemon_knows_everything(self, md: Metadata, bridge: BridgeNetwork, start: Start) -> None:
        web = await start("web", PortMapping(80))
        (port,) = web.ports
        await bridge.close()  # an end of the daemon frees its sockets; rules, interfaces and rows stay
        assert (await ask("127.0.0.1", port.host_port)).startswith("web ")
        second = BridgeNetwork(md, settings())
        try:
            assert second.reserved(web.owner) == bridge.reserved(web.owner)
            await second.setup()
            assert (await ask("127.0.0.1", port.host_port)).startswith("web ")
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port.host_port))
            with pytest.raises(AlreadyExists):
                await second.allocate(new_id(), [PortMapping(80, "127.0.0.1", port.host_port)])
            await second.release(web.owner)
            with pytest.raises(ConnectionRefusedError):
                await ask("127.0.0.1", port.host_port)
        finally:
            await second.close()

    @pytest.mark.parametrize(
        "command", ["delete table ip {table}", "flush table ip {table}", "flush map ip {table} published"]
    )
    async def test_rules_come_back(self, start: Start, command: str) -> None:
        """Only this test's own table is touched: other programs' rules are on the machine too."""
        web = await start("web", PortMapping(80))
        (port,) = web.ports
        await run(["nft", command.format(table=TABLE)])
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    if (await asyncio.wait_for(ask("127.0.0.1", port.host_port), SHORT_S)).startswith("web "):
                        break
                await asyncio.sleep(0.02)

    async def test_changes_in_the_moment_of_a_flush(self, bridge: BridgeNetwork, start: Start) -> None:
        one = await start("one", PortMapping(80))
        two = await start("two", PortMapping(80))
        await nft.delete_table("ip", TABLE)
        await bridge.disconnect(one.owner)
        await nft.delete_table("ip", TABLE)
        three = await start("three", PortMapping(80))
        for container, name in ((two, "two"), (three, "three")):
            assert (await ask("127.0.0.1", container.ports[0].host_port)).startswith(name)

    async def test_teardown_takes_connected_containers_along(self, md: Metadata, bridge: BridgeNetwork) -> None:
        async with peer("web") as web:
            owner = new_id()
            await bridge.allocate(owner, [PortMapping(80)])
            await bridge.connect(owner, web.pid)
            await bridge.teardown()
            assert not {BRIDGE, f"sh{owner[:12]}"} & set(os.listdir("/sys/class/net"))
            assert await nft.list_table("ip", TABLE) is None
            await bridge.release(owner)

    async def test_a_firewall_that_drops_what_is_forwarded(
        self, bridge: BridgeNetwork, start: Start, lan: Peer
    ) -> None:
        """As Docker and ufw make it; here for this test's interfaces only."""
        table = f"shoal_test_fw_{os.getpid()}"
        web = await start("web", PortMapping(80, "0.0.0.0"))
        try:
            await nft.apply(
                f"table ip {table} {{\n"
                "  chain FORWARD {\n"
                "    type filter hook forward priority filter; policy drop;\n"
                f'    iifname != {{ "{BRIDGE}", "{LINK}" }} accept comment "others"\n'
                "  }\n"
                "}\n"
            )
            async with asyncio.timeout(10):
                while await web.peer.connect(NEIGHBOUR, 80, SHORT_S) != f"neighbour {HOST}":
                    await asyncio.sleep(0.02)
            assert await lan.connect(HOST, web.ports[0].host_port) == f"web {NEIGHBOUR}"
            assert (await lan.connect(web.address, 80, SHORT_S)).startswith("error: timed out")
            await bridge.teardown()
            # Daemons of others that run now admitted themselves too.
            comments = [o["rule"]["comment"] for o in await nft.list_table("ip", table) or [] if "rule" in o]
            assert "others" in comments
            assert not [comment for comment in comments if BRIDGE in comment]
        finally:
            await nft.delete_table("ip", table)
