"""EXPOSE: ports, ranges and protocols."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from shoald.dockerfile.gotext import parse_unsigned

MAX_PORTS = 3 * 65535
"""More ports than this in one instruction are refused."""
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})


def expose(specs: Iterable[str]) -> tuple[str, ...]:
    """`[[ip:]host:]port[-port][/protocol]` as `port/protocol`, one for each port; ip and host port mean nothing.

    Raises ValueError with Docker's message.
    """
    ports: list[str] = []
    for spec in specs:
        ports += _ports(spec)
        if len(ports) > MAX_PORTS:
            raise ValueError(f"EXPOSE names more than {MAX_PORTS} ports")
    return tuple(ports)


def _ports(spec: str) -> list[str]:
    address, host, container = _parts(spec)
    ports, _, protocol = container.partition("/")
    if not ports:
        raise ValueError(f"no port specified: {container[:200]}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol[:200]}")
    if address:
        _check_address(address)
    first, last = _range(ports, "containerPort")
    if host:
        host_first, host_last = _range(host, "hostPort")
        if last - first != host_last - host_first and last != first:
            raise ValueError(f"invalid ranges specified for container and host Ports: {ports} and {host}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _parts(spec: str) -> tuple[str, str, str]:
    parts = spec.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _check_address(address: str) -> None:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"invalid IP address: {address[:200]}") from None


def _range(text: str, name: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low = parse_unsigned(first, limit=65535)
        high = parse_unsigned(last, limit=65535) if dash else low
    except ValueError:
        raise ValueError(f"invalid {name}: {text[:200]}") from None
    if high < low:
        raise ValueError(f"invalid {name}: {text[:200]}")
    return low, high
