"""Host ports held by a bound socket, so that no other program takes them and a conflict shows at once.

The sockets never listen: packets are redirected before they would reach them, and without the rules a caller is
refused.
"""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections.abc import Callable, Iterable, Sequence

import structlog

from shoal.errors import AlreadyExists, InvalidArgument, PermissionDenied, ResourceExhausted, Unimplemented
from shoald.host.syscall import failure
from shoald.model.container import PortMapping

log = structlog.get_logger(__name__)
EPHEMERAL = range(32768, 61000)
TRIES = 200
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Reservations:
    """Bound sockets by owner."""

    def __init__(self) -> None:
        self._held: dict[str, list[socket.socket]] = {}

    def hold(self, owner: str, port: PortMapping) -> None:
        """Bind. Raises AlreadyExists (PORT_IN_USE), InvalidArgument (HOST_IP_NOT_AVAILABLE)."""
        self._held.setdefault(owner, []).append(bound(port))

    def hold_any(self, owner: str, port: PortMapping, taken: Callable[[int], bool]) -> int:
        """Bind to a free port of the ephemeral range and return it. Raises ResourceExhausted (NO_FREE_PORT)."""
        for number in random.sample(EPHEMERAL, TRIES):
            if taken(number):
                continue
            try:
                self.hold(owner, PortMapping(port.container_port, port.host_ip, number, port.protocol))
            except AlreadyExists:
                continue
            return number
        raise ResourceExhausted(f"no free port on {port.host_ip}", reason="NO_FREE_PORT")

    def take_up(self, owner: str, ports: Iterable[PortMapping]) -> None:
        """Hold again what an earlier daemon held. One that somebody took meanwhile is logged: the rules still win."""
        if owner in self._held:
            return
        for port in ports:
            try:
                self.hold(owner, port)
            except (AlreadyExists, InvalidArgument) as error:
                log.warning("published_port_taken", owner=owner, port=port.host_port, error=str(error))

    def drop(self, owner: str) -> None:
        """Close all of an owner's."""
        for held in self._held.pop(owner, []):
            held.close()

    def close(self) -> None:
        """Close all."""
        for owner in list(self._held):
            self.drop(owner)


def check_host_ip(text: str) -> str:
    """A canonical IP address. Raises InvalidArgument (INVALID_HOST_IP), Unimplemented
    (IPV6_LOOPBACK_PUBLISH)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}", reason="INVALID_HOST_IP") from None
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        raise InvalidArgument(
            f"ports can't be published on {text}", reason="INVALID_HOST_IP", hint="name a plain address"
        )
    if address.version == 6 and address.is_loopback:
        # IPv6 has nothing like route_localnet: where br_netfilter looks at bridges, an answer for ::1 is dropped on its
        # way from the bridge, whatever the routes say.
        raise Unimplemented(
            "ports can't be published on ::1: the kernel brings no answer of a container back there",
            reason="IPV6_LOOPBACK_PUBLISH",
            hint="publish on 127.0.0.1, where programs that ask for localhost go next, or on another IPv6 address",
        )
    return str(address)


def check_protocol(protocol: str) -> None:
    """Raises InvalidArgument (INVALID_PORTS) for anything but tcp and udp."""
    if protocol not in KINDS:
        raise InvalidArgument(f"invalid protocol {protocol!r}", reason="INVALID_PORTS", hint="use tcp or udp")


def bound(port: PortMapping) -> socket.socket:
    """A bound socket that does not listen."""
    version6 = ":" in port.host_ip
    where = f"{f'[{port.host_ip}]' if version6 else port.host_ip}:{port.host_port}/{port.protocol}"
    try:
        held = socket.socket(
            socket.AF_INET6 if version6 else socket.AF_INET, KINDS[port.protocol] | socket.SOCK_CLOEXEC
        )
    except OSError as error:
        raise failure(f"hold port {where}", error.errno or 0) from error
    try:
        _bind(held, port)
    except OSError as error:
        held.close()
        metadata = {"host_ip": port.host_ip, "port": str(port.host_port), "protocol": port.protocol}
        if error.errno == errno.EADDRINUSE:
            raise AlreadyExists(
                f"port {where} is already in use by another program on the host",
                reason="PORT_IN_USE",
                hint=f"choose another port, or find who has it: ss -lntup 'sport = :{port.host_port}'",
                metadata=metadata,
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidArgument(
                f"the host has no address {port.host_ip} to publish port {port.host_port} on",
                reason="HOST_IP_NOT_AVAILABLE",
                metadata=metadata,
            ) from error
        raise PermissionDenied(
            f"can't bind {where}: {error.strerror}", reason="PORT_REFUSED", metadata=metadata
        ) from error
    return held


def _bind(held: socket.socket, port: PortMapping) -> None:
    address = (port.host_ip, port.host_port)
    if held.family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        held.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or port.protocol != "tcp":
            raise
        # Only connections of a server that ended a moment ago (TIME_WAIT)? Then one that listens may have the port, and
        # after it has listened once nobody else gets it, although it stops to.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen(0)
        held.shutdown(socket.SHUT_RD)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def distinct(ports: Sequence[PortMapping]) -> list[PortMapping]:
    """Without exact repetitions of a fixed port."""
    return [port for at, port in enumerate(ports) if port.host_port == 0 or port not in ports[:at]]
