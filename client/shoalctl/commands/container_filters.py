"""`ps -f`: what the daemon filters, and the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoalctl.commands.container_rows import STATES
from shoalctl.flags.fault import UsageFault

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


def list_request(
    wanted: dict[str, list[str]], *, everything: bool, limit: int
) -> container_pb2.ContainerServiceListRequest:
    """The request for these filters. Raises UsageFault for an unknown state."""
    from shoal.v1 import container_pb2

    for state in wanted["status"]:
        if state not in STATES[1:]:
            raise UsageFault(f"unknown status {state!r}", hint=f"there are {', '.join(STATES[1:])}")
    request = container_pb2.ContainerServiceListRequest(
        all=everything or bool(wanted["status"]),
        states=[STATES.index(state) for state in wanted["status"]],  # type: ignore[misc]
        name=wanted["name"][0] if len(wanted["name"]) == 1 else "",
        image=wanted["ancestor"][0] if len(wanted["ancestor"]) == 1 else "",
        limit=limit,
    )
    for label in wanted["label"]:
        key, _, value = label.partition("=")
        request.labels.add(key=key, value=value)
    return request


def matches(item: container_pb2.Container, wanted: dict[str, list[str]]) -> bool:
    """Whether the container passes the filters that the request can't carry."""
    if wanted["id"] and not any(item.id.startswith(prefix) for prefix in wanted["id"]):
        return False
    if len(wanted["ancestor"]) > 1 and item.image not in wanted["ancestor"]:
        return False
    return not wanted["name"] or any(part in item.name for part in wanted["name"])
