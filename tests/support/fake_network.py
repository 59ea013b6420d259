"""A network of containers that exists only in memory; it passes the portable part of tests/contract/test_network.py."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted
from shoald.model.container import ContainerSpec, PortMapping
from shoald.model.network import Membership
from shoald.network.ports import Endpoint
from shoald.network.reservations import check_host_ip, check_protocol


class FakeNetwork:
    """See shoald.network.ports.NetworkDriver. `connected`: container id -> pid, for tests to look at."""

    def __init__(self, subnet: str = "10.99.0.0/24", publish_address: str = "127.0.0.1") -> None:
        self._subnet = IPv4Network(subnet)
        self._publish_address = publish_address
        self._endpoints: dict[str, Endpoint] = {}
        self._ports: dict[str, tuple[PortMapping, ...]] = {}
        self.connected: dict[str, int] = {}

    async def setup(self) -> None:
        """Nothing to make."""

    def admit(self, owner: str, memberships: Sequence[Membership]) -> None:
        """See NetworkDriver.admit: all are in the default network."""

    async def allocate(
        self, container_id: str, ports: Sequence[PortMapping]
    ) -> tuple[Endpoint, tuple[PortMapping, ...]]:
        """See NetworkDriver.allocate."""
        checked = []
        for port in ports:
            check_protocol(port.protocol)
            host_ip = check_host_ip(port.host_ip or self._publish_address)
            if ":" in host_ip:
                raise FailedPrecondition("the container has no IPv6", reason="IPV6_PUBLISH")
            checked.append(PortMapping(port.container_port, host_ip, port.host_port, port.protocol))
        if container_id not in self._endpoints:
            given = self._given(checked)
            self._endpoints[container_id] = self._free_endpoint()
            self._ports[container_id] = given
        return self._endpoints[container_id], self._ports[container_id]

    def _given(self, ports: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        given: list[PortMapping] = []
        distinct = [port for at, port in enumerate(ports) if not port.host_port or port not in ports[:at]]
        for port in sorted(distinct, key=lambda p: p.host_port == 0):
            number = port.host_port or next(n for n in range(32768, 61000) if not self._owner(port, n, given))
            owner = self._owner(port, number, given)
            if owner:
                raise AlreadyExists(
                    f"port {port.host_ip}:{number}/{port.protocol} is in use by container {owner}",
                    reason="PORT_IN_USE",
                    metadata={
                        "container": owner,
                        "host_ip": port.host_ip,
                        "port": str(number),
                        "protocol": port.protocol,
                    },
                )
            given.append(PortMapping(port.container_port, port.host_ip, number, port.protocol))
        return tuple(sorted(given, key=lambda p: (p.container_port, p.protocol, p.host_port)))

    def _owner(self, port: PortMapping, number: int, given: Sequence[PortMapping]) -> str:
        for owner, ports in (*self._ports.items(), ("itself", given)):
            for held in ports:
                same = (held.host_port, held.protocol) == (number, port.protocol)
                if same and (held.host_ip == port.host_ip or "0.0.0.0" in (held.host_ip, port.host_ip)):
                    return owner
        return ""

    def _free_endpoint(self) -> Endpoint:
        gateway, *hosts = self._subnet.hosts()
        taken = {endpoint.ip_address for endpoint in self._endpoints.values()}
        for address in hosts:
            if str(address) not in taken:
                mac = ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)
                return Endpoint(str(address), self._subnet.prefixlen, str(gateway), mac)
        raise ResourceExhausted(f"all addresses of {self._subnet} are in use", reason="NO_FREE_ADDRESS")

    def reserved(self, container_id: str) -> tuple[Endpoint | None, tuple[PortMapping, ...]]:
        """See NetworkDriver.reserved."""
        return self._endpoints.get(container_id), self._ports.get(container_id, ())

    async def connect(self, container_id: str, pid: int) -> None:
        """See NetworkDriver.connect."""
        if container_id not in self._endpoints:
            raise NotFound(f"container {container_id[:12]} has no address", reason="NO_ADDRESS")
        self.connected[container_id] = pid

    async def disconnect(self, container_id: str) -> None:
        """See NetworkDriver.disconnect."""
        self.connected.pop(container_id, None)

    async def release(self, container_id: str) -> None:
        """See NetworkDriver.release."""
        await self.disconnect(container_id)
        self._endpoints.pop(container_id, None)
        self._ports.pop(container_id, None)

    async def teardown(self) -> None:
        """Forget everything that is connected."""
        self.connected.clear()

    def endpoints(self, container_id: str) -> Sequence[Endpoint]:
        """See NetworkDriver.endpoints."""
        return [self._endpoints[container_id]] if container_id in self._endpoints else []

    def memberships(self, spec: ContainerSpec) -> Sequence[Membership]:
        """See NetworkDriver.memberships: all are in the default network."""
        return [Membership("bridge")] if spec.network == "bridge" else []

    async def attach(self, container_id: str, pid: int, membership: Membership) -> None:
        """There is no other network."""
        raise NotImplementedError

    async def detach(self, container_id: str, pid: int, network_id: str) -> None:
        """There is no other network."""
        raise NotImplementedError

    async def mend(self, container_id: str, pid: int) -> None:
        """Nothing is ever broken."""

    async def renamed(self) -> None:
        """Names are nobody's business here."""

    def resolv_conf(self, endpoints: Sequence[Endpoint] = ()) -> str:
        """See NetworkDriver.resolv_conf."""
        return "nameserver 192.0.2.53\n"
