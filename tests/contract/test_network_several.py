"""User-defined networks with real packets: who reaches whom, names, several networks, changes while running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import AlreadyExists, FailedPrecondition
from shoald.host import nft
from shoald.metadata import Metadata
from shoald.model.container import ContainerState, Membership, PortMapping
from shoald.model.network import DEFAULT, Network, NetworkRequest
from shoald.network import dns, wiring
from shoald.network.bridge import BridgeNetwork
from tests.support import records
from tests.support.network import (
    BRIDGE,
    GATEWAY,
    HOST,
    NEIGHBOUR,
    SHORT_S,
    TABLE,
    Peer,
    ask,
    neighbour_of_host,
    peer,
    real_network,
    settings,
)

PROGRAM = dns.find_program("")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not PROGRAM, reason="needs aardvark-dns"),
]
UNREACHABLE = ("error:",)


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
async def bridge(md: Metadata, tmp_path: Path) -> AsyncIterator[BridgeNetwork]:
    async with real_network(md, dns_program=PROGRAM, dns_directory=tmp_path / "dns") as network:
        yield network
    assert dns.running(tmp_path / "dns") is None


async def made(bridge: BridgeNetwork, name: str, **fields: object) -> Network:
    network = await bridge.networks.plan(NetworkRequest(name, subnets=_subnets(name, fields), **fields), "")  # type: ignore[arg-type]
    await bridge.create(network)
    return network


def _subnets(name: str, fields: dict[str, object]) -> tuple[str, ...]:
    """Three /26 fit into the tests' pool, which is smaller than what is chosen from."""
    number = {"front": 0, "back": 64, "third": 128}[name]
    return (f"10.235.{os.getpid() % 200}.{number}/26",)


class Container:
    """A peer with a record, in networks."""

    def __init__(self, bridge: BridgeNetwork, peer: Peer, owner: str) -> None:
        self.bridge, self.peer, self.owner = bridge, peer, owner

    def address(self, network: Network) -> str:
        return next(e.ip_address for e in self.bridge.endpoints(self.owner) if e.network == network.name)

    def address6(self, network: Network) -> str:
        return next(e.ip6_address for e in self.bridge.endpoints(self.owner) if e.network == network.name)

    async def reaches(self, address: str, port: int = 80) -> str:
        return await self.peer.connect(address, port, SHORT_S)

    async def finds(self, network: Network, name: str, kind: int = 1) -> list[str]:
        found: list[str] = await self.peer.call("resolve", server=network.gateways[0], host=name, kind=kind)
        return found


Start = Callable[..., Awaitable[Container]]


@pytest.fixture
async def start(md: Metadata, bridge: BridgeNetwork) -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def begin(name: str, *memberships: Membership, ports: tuple[PortMapping, ...] = ()) -> Container:
            started = await stack.enter_async_context(peer(name))
            record = records.container(name)
            md.containers.insert(replace(record, hostname=f"host-of-{name}", state=ContainerState.RUNNING))
            for membership in memberships:
                md.memberships.put(record.id, membership)
            stack.push_async_callback(bridge.release, record.id)
            await bridge.allocate(record.id, ports)
            await bridge.connect(record.id, started.pid)
            return Container(bridge, started, record.id)

        yield begin


class TestNames:
    async def test_containers_find_each_other(self, bridge: BridgeNetwork, start: Start) -> None:
        net = await made(bridge, "front")
        web = await start("web", Membership(net.id, aliases=("www", "Site")))
        db = await start("db", Membership(net.id))
        for name in ("web", "WEB", "www", "site", web.owner[:12], "host-of-web"):
            assert await db.finds(net, name) == [web.address(net)], name
        assert await db.reaches(web.address(net)) == f"web {db.address(net)}"
        assert await db.finds(net, "nobody") == ["code 3"]
        await bridge.release(web.owner)
        assert await db.finds(net, "web") == ["code 3"]

    async def test_names_end_at_their_network(self, bridge: BridgeNetwork, start: Start) -> None:
        front, back = await made(bridge, "front"), await made(bridge, "back")
        web, db = await start("web", Membership(front.id)), await start("db", Membership(back.id))
        assert await web.finds(front, "db") == ["code 3"]
        assert await db.finds(back, "web") == ["code 3"]
        both = await start("both", Membership(front.id), Membership(back.id))
        # One server knows the names of all networks that the asker is in.
        assert await both.finds(front, "db") == [db.address(back)]
        assert await both.finds(front, "web") == [web.address(front)]

    async def test_an_internal_network_knows_no_names_of_outside(self, bridge: BridgeNetwork, start: Start) -> None:
        net = await made(bridge, "back", internal=True)
        db = await start("db", Membership(net.id))
        assert await db.finds(net, "db") == [db.address(net)]
        # "No such name", or no answer at all: as the version has it.
        (answer,) = await db.finds(net, "example.com")
        assert answer.startswith(("code ", "error: timed out"))

    async def test_the_server_is_started_again_when_it_dies(
        self, bridge: BridgeNetwork, start: Start, tmp_path: Path
    ) -> None:
        net = await made(bridge, "front")
        web = await start("web", Membership(net.id))
        found = dns.running(tmp_path / "dns")
        assert found is not None
        os.kill(found[0], signal.SIGKILL)
        async with asyncio.timeout(10):
            while await web.finds(net, "web") != [web.address(net)]:
                await asyncio.sleep(0.05)
        assert dns.running(tmp_path / "dns") not in (None, found)

    async def test_a_new_daemon_finds_the_server(
        self, md: Metadata, bridge: BridgeNetwork, start: Start, tmp_path: Path
    ) -> None:
        net = await made(bridge, "front")
        web = await start("web", Membership(net.id))
        before = dns.running(tmp_path / "dns")
        await bridge.close()
        assert await web.finds(net, "web") == [web.address(net)]
        second = BridgeNetwork(md, settings(dns_program=PROGRAM, dns_directory=tmp_path / "dns"))
        await second.setup()
        try:
            assert dns.running(tmp_path / "dns") == before
            await second.release(web.owner)
            assert dns.running(tmp_path / "dns") is None
        finally:
            await second.close()


class TestIsolation:
    async def test_networks_are_apart(self, bridge: BridgeNetwork, start: Start) -> None:
        front, back = await made(bridge, "front"), await made(bridge, "back")
        web, db = await start("web", Membership(front.id)), await start("db", Membership(back.id))
        plain = await start("plain", Membership(DEFAULT))
        for source, target in ((web, db.address(back)), (db, web.address(front)), (plain, web.address(front))):
            assert (await source.reaches(target)).startswith(UNREACHABLE)
        both = await start("both", Membership(front.id), Membership(back.id))
        assert (await both.reaches(web.address(front))).startswith("web ")
        assert (await both.reaches(db.address(back))).startswith("db ")

    async def test_networks_that_are_not_isolated(self, bridge: BridgeNetwork, start: Start) -> None:
        front = await made(bridge, "front", options={"isolate": "false"})
        back = await made(bridge, "back", options={"isolate": "false"})
        third = await made(bridge, "third")
        web, db = await start("web", Membership(front.id)), await start("db", Membership(back.id))
        assert (await web.reaches(db.address(back))).startswith("db ")
        other = await start("other", Membership(third.id))
        assert (await other.reaches(db.address(back))).startswith(UNREACHABLE)

    async def test_an_internal_network_has_no_way_out_or_in(self, bridge: BridgeNetwork, start: Start) -> None:
        async with neighbour_of_host() as lan:
            front, back = await made(bridge, "front"), await made(bridge, "back", internal=True)
            web = await start("web", Membership(front.id), ports=(PortMapping(80, "0.0.0.0"),))
            db, more = await start("db", Membership(back.id)), await start("more", Membership(back.id))
            assert await web.reaches(NEIGHBOUR) == f"neighbour {HOST}"
            assert (await db.reaches(NEIGHBOUR)).startswith(UNREACHABLE)
            assert (await db.reaches(more.address(back))).startswith("more ")
            assert await db.peer.call("interfaces") == {"eth0": ""}
            (port,) = bridge.reserved(web.owner)[1]
            # Not through a published port either, and not with a route that it makes itself.
            for address in (str(back.gateway), HOST):
                assert (await db.reaches(address, port.host_port)).startswith(UNREACHABLE)
            wiring.route(db.peer.pid, [(back.gateway, bridge.endpoints(db.owner)[0].mac_address)])
            assert (await db.reaches(NEIGHBOUR)).startswith(UNREACHABLE)
            assert (await db.reaches(HOST, port.host_port)).startswith(UNREACHABLE)
            assert (await lan.connect(db.address(back), 80, SHORT_S)).startswith(UNREACHABLE)

    async def test_containers_that_must_not_talk_to_each_other(self, bridge: BridgeNetwork, start: Start) -> None:
        net = await made(bridge, "front", options={"icc": "false"})
        one, two = await start("one", Membership(net.id)), await start("two", Membership(net.id))
        assert (await one.reaches(two.address(net))).startswith(UNREACHABLE)
        async with neighbour_of_host():
            assert (await one.reaches(NEIGHBOUR)).startswith("neighbour ")

    async def test_a_published_port_is_reached_from_other_networks(self, bridge: BridgeNetwork, start: Start) -> None:
        front, back = await made(bridge, "front"), await made(bridge, "back")
        web = await start("web", Membership(front.id), ports=(PortMapping(80, "0.0.0.0"),))
        db = await start("db", Membership(back.id))
        (port,) = bridge.reserved(web.owner)[1]
        assert (await db.reaches(str(back.gateway), port.host_port)).startswith("web ")


class TestIPv6:
    async def test_packets_and_names(self, bridge: BridgeNetwork, start: Start) -> None:
        net = await made(bridge, "front", ipv6=True)
        web, db = await start("web", Membership(net.id)), await start("db", Membership(net.id))
        assert await db.finds(net, "web", 28) == [web.address6(net)]
        assert await db.reaches(web.address6(net)) == f"web {db.address6(net)}"

    async def test_a_published_port(self, bridge: BridgeNetwork, start: Start) -> None:
        net, other = await made(bridge, "front", ipv6=True), await made(bridge, "back", ipv6=True)
        host = net.gateways[1]
        web = await start("web", Membership(net.id), ports=(PortMapping(80, "::"), PortMapping(80, host)))
        for port in bridge.reserved(web.owner)[1]:
            assert (await ask(host, port.host_port)).startswith("web ")
        with pytest.raises(OSError, match="Connect call failed"):
            await ask("::1", next(p.host_port for p in bridge.reserved(web.owner)[1] if p.host_ip == "::"))
        db = await start("db", Membership(other.id))
        assert (await db.reaches(web.address6(net))).startswith(UNREACHABLE)
        await bridge.disconnect(web.owner)
        with pytest.raises(OSError, match="Connect call failed"):
            await ask(host, bridge.reserved(web.owner)[1][0].host_port)

    async def test_without_ipv6_no_port_on_ipv6(self, md: Metadata, bridge: BridgeNetwork) -> None:
        net = await made(bridge, "front")
        md.containers.insert(records.container("web"))
        md.memberships.put(records.container("web").id, Membership(net.id))
        with pytest.raises(FailedPrecondition) as caught:
            await bridge.allocate(records.container("web").id, [PortMapping(80, "::")])
        assert caught.value.reason == "IPV6_PUBLISH"
        assert bridge.endpoints(records.container("web").id) == []


class TestChanges:
    async def test_join_and_leave_while_running(self, md: Metadata, bridge: BridgeNetwork, start: Start) -> None:
        front, back = await made(bridge, "front"), await made(bridge, "back", internal=True)
        web = await start("web", Membership(DEFAULT), ports=(PortMapping(80, "0.0.0.0"),))
        db = await start("db", Membership(back.id))
        (port,) = bridge.reserved(web.owner)[1]
        assert await web.peer.call("interfaces") == {"eth0": GATEWAY}
        await bridge.attach(web.owner, web.peer.pid, Membership(back.id, aliases=("site",)))
        assert await web.peer.call("interfaces") == {"eth0": GATEWAY, "eth1": ""}
        assert await db.finds(back, "site") == [web.address(back)]
        assert (await db.reaches(web.address(back))).startswith("web ")
        await bridge.attach(web.owner, web.peer.pid, Membership(front.id))
        await bridge.detach(web.owner, web.peer.pid, DEFAULT)
        # The next network that leads out is the way, for published ports too.
        assert await web.peer.call("interfaces") == {"eth1": "", "eth2": str(front.gateway)}
        assert (await ask("127.0.0.1", port.host_port)).startswith("web ")
        await bridge.detach(web.owner, web.peer.pid, front.id)
        with pytest.raises(OSError, match="Connect call failed"):
            await ask("127.0.0.1", port.host_port)
        await bridge.attach(web.owner, web.peer.pid, Membership(DEFAULT))
        assert (await ask("127.0.0.1", port.host_port)).startswith("web ")
        assert await web.peer.call("interfaces") == {"eth0": GATEWAY, "eth1": ""}
        assert [each.network for each in md.memberships.of(web.owner)] == [back.id, DEFAULT]

    async def test_what_can_not_be_joined_leaves_nothing(
        self, md: Metadata, bridge: BridgeNetwork, start: Start
    ) -> None:
        net = await made(bridge, "front")
        db = await start("db", Membership(net.id))
        web = await start("web", Membership(DEFAULT))
        with pytest.raises(AlreadyExists):
            await bridge.attach(web.owner, web.peer.pid, Membership(net.id, db.address(net)))
        assert [each.network for each in md.memberships.of(web.owner)] == [DEFAULT]
        assert await web.peer.call("interfaces") == {"eth0": GATEWAY}
        assert wiring.link_name(web.owner, net) not in os.listdir("/sys/class/net")

    async def test_an_address_that_was_asked_for_is_kept(
        self, md: Metadata, bridge: BridgeNetwork, start: Start
    ) -> None:
        net = await made(bridge, "front")
        wanted = str(net.subnet.network_address + 2)
        md.containers.insert(records.container("stopped"))
        md.memberships.put(records.container("stopped").id, Membership(net.id, wanted))
        assert (await start("web", Membership(net.id))).address(net) != wanted

    async def test_a_new_daemon_mends(self, md: Metadata, bridge: BridgeNetwork, start: Start) -> None:
        front, back = await made(bridge, "front"), await made(bridge, "back")
        web = await start("web", Membership(front.id))
        # As if it was killed in the middle of a connect, and in that of a disconnect.
        md.memberships.put(web.owner, Membership(back.id))
        wiring.unwire([wiring.link_name(web.owner, front)])
        wiring.delete_bridge(back.bridge)
        stray = f"{back.bridge[:-1]}{'0' if back.bridge[-1] != '0' else '1'}"
        wiring.make_bridge(replace(back, bridge=stray, subnets=("10.236.1.0/24",), gateways=("10.236.1.1",)), 1400)
        await bridge.setup()
        await bridge.mend(web.owner, web.peer.pid)
        assert stray not in os.listdir("/sys/class/net")
        assert await web.peer.call("interfaces") == {"eth0": str(front.gateway), "eth1": ""}
        md.memberships.remove(web.owner, back.id)
        await bridge.mend(web.owner, web.peer.pid)
        assert await web.peer.call("interfaces") == {"eth0": str(front.gateway)}


async def test_a_removed_network_leaves_nothing(bridge: BridgeNetwork) -> None:
    net = await made(bridge, "front", ipv6=True)
    assert await nft.list_table("ip6", TABLE) is not None
    await bridge.remove(net)
    assert net.bridge not in os.listdir("/sys/class/net")
    assert await nft.list_table("ip6", TABLE) is None
    assert BRIDGE in os.listdir("/sys/class/net")
