"""Containers as rows: Docker's field names, for tables, JSON and templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shoalctl.flags.process import shown
from shoalctl.render.human import ago, cut, duration, size

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from shoal.v1 import container_pb2

STATES = ("", "created", "running", "restarting", "exited", "removing", "dead", "paused")
"""Words of the states, by their number in the API."""

HEALTH = ("none", "starting", "healthy", "unhealthy")
"""Words of the health, by its number in the API."""

ID_LENGTH = 12
_COMMAND_LENGTH = 20


def moment(stamp: Timestamp) -> datetime:
    """An aware time in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def container_row(host: str, item: container_pb2.Container, now: datetime, *, full: bool) -> dict[str, Any]:
    """One container; `full` keeps ids and commands whole."""
    created = moment(item.created_at)
    command = shown(list(item.command))
    return {
        "Host": host,
        "ID": item.id if full else item.id[:ID_LENGTH],
        "Image": item.image or item.image_id,
        "Command": f'"{command if full else cut(command, _COMMAND_LENGTH)}"',
        "CreatedAt": created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "RunningFor": ago(created, now),
        "Status": status(item, now),
        "State": STATES[item.state],
        "Ports": ports(item.ports),
        "Names": item.name,
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(item.labels.items())),
        "Networks": ",".join(item.networks),
        "Health": HEALTH[item.health] if item.health else "",
        "Size": size(item.size_bytes) if item.size_bytes else "0B",
        "SizeBytes": item.size_bytes,
    }


def status(item: container_pb2.Container, now: datetime) -> str:
    """`Up 2 minutes`, `Exited (0) 3 hours ago`, as docker words it."""
    state = STATES[item.state]
    if state in ("running", "paused"):
        up = f"Up {duration(now - moment(item.started_at))}"
        if state == "paused":
            return f"{up} (Paused)"
        health = HEALTH[item.health]
        return up if not item.health else f"{up} ({'health: ' if health == 'starting' else ''}{health})"
    if state == "exited":
        code = item.exit_code if item.HasField("exit_code") else 0
        return f"Exited ({code}) {ago(moment(item.finished_at), now)}"
    if state == "restarting":
        return f"Restarting ({item.exit_code}) {ago(moment(item.finished_at), now)}"
    if state == "removing":
        return "Removal In Progress"
    return state.capitalize()


def ports(mappings: Sequence[container_pb2.PortMapping]) -> str:
    """`127.0.0.1:8080->80/tcp, 53/udp`."""
    texts = []
    for mapping in mappings:
        protocol = "udp" if mapping.protocol == mapping.PROTOCOL_UDP else "tcp"
        ip = f"[{mapping.host_ip}]" if ":" in mapping.host_ip else mapping.host_ip
        outside = f"{ip}:{mapping.host_port}->" if mapping.host_port else ""
        texts.append(f"{outside}{mapping.container_port}/{protocol}")
    return ", ".join(texts)


def label_text(labels: Mapping[str, str]) -> str:
    """`a=1,b=2`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def stamp(time: Timestamp) -> str:
    """RFC 3339 with nanoseconds, as docker's logs and inspect show it."""
    return f"{time.ToDatetime():%Y-%m-%dT%H:%M:%S}.{time.nanos:09d}Z"
