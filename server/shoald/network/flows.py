"""Flows over published UDP ports, when what they are published to changes."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

import structlog

from shoal.errors import ShoalError
from shoald.host.blocking import in_thread
from shoald.network import conntrack
from shoald.network.rules import Published

log = structlog.get_logger(__name__)


async def forget_flows(published: Sequence[Published]) -> None:
    """A UDP flow keeps the way that it had when it began, for as long as it goes on: to nowhere from before the port
    was published, to whoever has the address next from before it was closed."""
    ports: dict[str, set[int]] = {}
    for p in published:
        if p.protocol == "udp":
            ports.setdefault(p.container_ip, set()).add(p.host_port)
    for address, numbers in ports.items():
        try:
            await in_thread(functools.partial(conntrack.forget_udp, numbers, ipaddress.ip_address(address)))
        except ShoalError as error:
            log.warning("flows_not_forgotten", error=str(error))
