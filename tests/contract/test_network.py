"""Contract of network drivers: what fake and bridge share, then the bridge with the ports of a real host."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unimplemented
from shoald.metadata import Metadata
from shoald.model.container import PortMapping
from shoald.network.bridge import BridgeNetwork, BridgeSettings
from shoald.network.ports import NetworkDriver
from tests.support.fake_network import FakeNetwork
from tests.support.network import BRIDGE, TABLE, free_port, new_id, real_network, settings


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
async def bridge(md: Metadata) -> AsyncIterator[BridgeNetwork]:
    async with real_network(md) as network:
        yield network


@pytest.fixture(params=["fake", pytest.param("bridge", marks=pytest.mark.root)])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkDriver]:
    if request.param == "fake":
        yield FakeNetwork()
        return
    with Metadata.open(tmp_path / "meta.db") as md:
        network = BridgeNetwork(md, settings())
        try:
            yield network
        finally:
            await network.close()


class TestReservations:
    async def test_the_same_container_keeps_what_it_has(self, driver: NetworkDriver) -> None:
        owner, port = new_id(), PortMapping(80)
        first = await driver.allocate(owner, [port])
        assert await driver.allocate(owner, [port]) == first
        assert driver.reserved(owner) == first
        other, _ = await driver.allocate(new_id(), [])
        assert other.ip_address != first[0].ip_address

    async def test_release_is_idempotent_and_gives_back(self, driver: NetworkDriver) -> None:
        owner, port = new_id(), PortMapping(80, "", free_port())
        endpoint, _ = await driver.allocate(owner, [port])
        for _ in range(2):
            await driver.release(owner)
            assert driver.reserved(owner) == (None, ())
        again, ports = await driver.allocate(new_id(), [port])
        assert (again.ip_address, ports[0].host_port) == (endpoint.ip_address, port.host_port)

    async def test_disconnect_keeps_the_reservation(self, driver: NetworkDriver) -> None:
        owner = new_id()
        given = await driver.allocate(owner, [PortMapping(80)])
        for _ in range(2):
            await driver.disconnect(owner)
        assert driver.reserved(owner) == given

    async def test_publishes_to_loopback_unless_told_otherwise(self, driver: NetworkDriver) -> None:
        _, ports = await driver.allocate(new_id(), [PortMapping(80), PortMapping(81, "0.0.0.0")])
        assert [(p.container_port, p.host_ip) for p in ports] == [(80, "127.0.0.1"), (81, "0.0.0.0")]

    async def test_free_ports_are_distinct(self, driver: NetworkDriver) -> None:
        _, ports = await driver.allocate(new_id(), [PortMapping(80), PortMapping(80), PortMapping(81)])
        _, more = await driver.allocate(new_id(), [PortMapping(80)])
        numbers = [p.host_port for p in (*ports, *more)]
        assert len(set(numbers)) == 4
        assert all(1024 < number < 65536 for number in numbers)

    async def test_the_same_port_twice_in_one_request_is_one(self, driver: NetworkDriver) -> None:
        port = PortMapping(80, "", free_port())
        _, ports = await driver.allocate(new_id(), [port, port])
        assert [p.host_port for p in ports] == [port.host_port]

    @pytest.mark.parametrize(
        ("first", "second"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")]
    )
    async def test_a_port_belongs_to_one_container(self, driver: NetworkDriver, first: str, second: str) -> None:
        owner, number = new_id(), free_port()
        await driver.allocate(owner, [PortMapping(80, first, number)])
        with pytest.raises(AlreadyExists) as caught:
            await driver.allocate(loser := new_id(), [PortMapping(8080, second, number)])
        assert caught.value.reason == "PORT_IN_USE"
        assert caught.value.metadata["container"] == owner
        assert caught.value.metadata["port"] == str(number)
        assert driver.reserved(loser) == (None, ())

    async def test_other_addresses_and_protocols_do_not_conflict(self, driver: NetworkDriver) -> None:
        number = free_port()
        await driver.allocate(new_id(), [PortMapping(80, "127.0.0.1", number)])
        await driver.allocate(new_id(), [PortMapping(80, "127.0.0.1", number, "udp")])
        await driver.allocate(new_id(), [PortMapping(80, "127.0.0.2", number)])

    @pytest.mark.parametrize(
        ("port", "error"),
        [
            (PortMapping(80, "localhost"), InvalidArgument),
            (PortMapping(80, "127.0.0.1", 0, "sctp"), InvalidArgument),
            (PortMapping(80, "::1"), Unimplemented),
            (PortMapping(80, "::"), FailedPrecondition),
        ],
    )
    async def test_refusals(self, driver: NetworkDriver, port: PortMapping, error: type[Exception]) -> None:
        owner = new_id()
        with pytest.raises(error):
            await driver.allocate(owner, [port])
        assert driver.reserved(owner) == (None, ())

    async def test_connect_needs_an_address(self, driver: NetworkDriver) -> None:
        with pytest.raises(NotFound, match="no address"):
            await driver.connect(new_id(), os.getpid())


def serve(address: tuple[str, int]) -> None:
    """As most servers do: with SO_REUSEADDR."""
    socket.create_server(address).close()


@pytest.mark.root
class TestHostPorts:
    @pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
    async def test_another_program_has_the_port(
        self, bridge: BridgeNetwork, kind: socket.SocketKind, protocol: str
    ) -> None:
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind(("127.0.0.1", 0))
            if kind is socket.SOCK_STREAM:
                other.listen()
            number = other.getsockname()[1]
            for address in ("127.0.0.1", "0.0.0.0"):
                with pytest.raises(AlreadyExists, match=f"{address}:{number}/{protocol}") as caught:
                    await bridge.allocate(
                        loser := new_id(), [PortMapping(80), PortMapping(80, address, number, protocol)]
                    )
                assert caught.value.reason == "PORT_IN_USE"
                assert bridge.reserved(loser) == (None, ())
            await bridge.allocate(new_id(), [PortMapping(80, "127.0.0.2", number, protocol)])

    async def test_no_other_program_gets_a_published_port(self, bridge: BridgeNetwork) -> None:
        _, (port,) = await bridge.allocate(new_id(), [PortMapping(80)])
        with pytest.raises(OSError, match="in use"):
            serve(("127.0.0.1", port.host_port))

    async def test_a_server_that_ended_a_moment_ago_is_no_conflict(self, bridge: BridgeNetwork) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            address = server.getsockname()
            client.connect(address)
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first stays in TIME_WAIT
            assert client.recv(1) == b""
        with socket.socket() as probe, pytest.raises(OSError, match="in use"):
            probe.bind(address)
        owner = new_id()
        await bridge.allocate(owner, [PortMapping(80, *address)])
        with pytest.raises(OSError, match="in use"):
            serve(address)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    async def test_an_address_that_the_host_lacks(self, bridge: BridgeNetwork) -> None:
        with pytest.raises(InvalidArgument, match=r"no address 192\.0\.2\.7"):
            await bridge.allocate(new_id(), [PortMapping(80, "192.0.2.7", 8080)])

    async def test_all_addresses_in_use(self, md: Metadata) -> None:
        network = BridgeNetwork(md, settings(ipaddress.IPv4Network("10.234.0.0/29")))
        given = [(await network.allocate(new_id(), []))[0].ip_address for _ in range(5)]
        assert given == [f"10.234.0.{number}" for number in range(2, 7)]
        with pytest.raises(ResourceExhausted, match=r"10\.234\.0\.0/29"):
            await network.allocate(new_id(), [])

    async def test_a_subnet_of_another_interface_is_refused(self, md: Metadata) -> None:
        network = BridgeNetwork(md, BridgeSettings(BRIDGE, ipaddress.IPv4Network("127.0.0.0/24"), TABLE, "127.0.0.1"))
        with pytest.raises(InvalidArgument, match="overlaps 127") as caught:
            await network.setup()
        assert caught.value.reason == "SUBNET_IN_USE"
