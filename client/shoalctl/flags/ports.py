"""`-p [[ip:]hostPort:]containerPort[/proto]`, with ranges and bracketed IPv6 addresses, as Docker reads it."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_PROTOCOLS = ("tcp", "udp")


class Port(NamedTuple):
    """One published port. An empty `host_ip` is the host's own choice, and so is a `host_port` of 0."""

    container_port: int
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "tcp"


def parse_port(text: str) -> list[Port]:
    """The ports that one `-p` value stands for; several when it holds a range. Raises UsageFault."""
    body, slash, protocol = text.rpartition("/")
    if not slash:
        body, protocol = text, "tcp"
    protocol = protocol.lower()
    if protocol not in _PROTOCOLS:
        raise _invalid(text, f"protocol {protocol!r} is not one of {', '.join(_PROTOCOLS)}")
    host_ip, host, container = _split(text, body)
    inside = _range(text, container)
    if not host:
        return [Port(port, 0, host_ip, protocol) for port in inside]
    outside = _range(text, host, lowest=0)
    if len(outside) != len(inside):
        raise _invalid(text, f"{host} has {len(outside)} ports and {container} has {len(inside)}")
    return [Port(i, o, host_ip, protocol) for i, o in zip(inside, outside, strict=True)]


def _split(text: str, body: str) -> tuple[str, str, str]:
    if body.startswith("["):
        address, bracket, rest = body[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise _invalid(text, "an IPv6 address is written [::1]:hostPort:containerPort")
        parts = rest[1:].split(":")
        return _address(text, address, 6), *_host_and_container(text, parts)
    parts = body.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3:
        return _address(text, parts[0], 4) if parts[0] else "", parts[1], parts[2]
    raise _invalid(text, "too many colons; an IPv6 address goes in brackets")


def _host_and_container(text: str, parts: list[str]) -> tuple[str, str]:
    if len(parts) == 1:
        return "", parts[0]
    if len(parts) == 2:
        return parts[0], parts[1]
    raise _invalid(text, "too many colons")


def _address(text: str, address: str, version: int) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise _invalid(text, f"{address!r} is not an IP address") from None
    if parsed.version != version:
        raise _invalid(text, f"{address!r} is not an IPv{version} address")
    return str(parsed)


def _range(text: str, part: str, lowest: int = 1) -> range:
    found = _RANGE.fullmatch(part)
    if found is None:
        raise _invalid(
            text, f"{part!r} is not a port or a range of ports" if part else "the container's port is missing"
        )
    first = int(found[1])
    last = int(found[2] or first)
    if not lowest <= first <= last <= 65535:
        raise _invalid(text, f"{part!r} is not within {lowest}-65535 in rising order")
    return range(first, last + 1)


def _invalid(text: str, why: str) -> UsageFault:
    return UsageFault(f"invalid port {text!r}: {why}", hint="write [ip:][hostPort:]containerPort[/tcp|/udp]")
