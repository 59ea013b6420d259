"""Ports that an image or a request exposes, and `-P`, which publishes them all; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shoal.errors import InvalidArgument
from shoald.model.container import ContainerSpec, PortMapping
from shoald.oci.config import ImageConfig

_EXPOSED = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp))?", re.IGNORECASE)


def published(spec: ContainerSpec, image: ImageConfig) -> tuple[PortMapping, ...]:
    """The ports to publish: those asked for and, with `publish_all`, each exposed one on a port that the host chooses.

    Raises InvalidArgument (INVALID_PORTS).
    """
    if not spec.publish_all:
        return spec.ports
    taken = {(port.container_port, port.protocol) for port in spec.ports}
    exposed: dict[tuple[int, str], None] = {}
    for text in (*spec.exposed_ports, *(image.defaults.exposed_ports or {})):
        exposed |= dict.fromkeys(parse_exposed(text))
    more = [PortMapping(number, protocol=protocol) for number, protocol in exposed if (number, protocol) not in taken]
    return (*spec.ports, *sorted(more, key=lambda port: (port.container_port, port.protocol)))


def parse_exposed(text: str) -> Iterator[tuple[int, str]]:
    """ "80", "80/tcp", "7000-7002/udp" -> numbers and protocols. Raises InvalidArgument (INVALID_PORTS)."""
    found = _EXPOSED.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if found is None or not 1 <= first <= last <= 65535:
        raise InvalidArgument(f"invalid exposed port {text!r}", reason="INVALID_PORTS", hint="for example 80/tcp")
    protocol = (found[3] or "tcp").lower()
    return ((number, protocol) for number in range(first, last + 1))
