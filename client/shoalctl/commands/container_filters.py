"""`ps -f`: what the daemon filters, and the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoalctl.commands.container_rows import HEALTH, STATES
from shoalctl.flags.fault import UsageFault

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
    from shoalctl.fleet.host import HostClient


_ONE = ("network", "volume")
"""What a request takes one value of."""


def list_request(
    wanted: dict[str, list[str]], *, everything: bool, limit: int
) -> container_pb2.ContainerServiceListRequest:
    """The request for these filters. Raises UsageFault for an unknown state."""
    from shoal.v1 import container_pb2

    for state in wanted["status"]:
        if state not in STATES[1:]:
            raise UsageFault(f"unknown status {state!r}", hint=f"there are {', '.join(STATES[1:])}")
    for health in wanted["health"]:
        if health not in HEALTH:
            raise UsageFault(f"unknown health {health!r}", hint=f"there are {', '.join(HEALTH)}")
    for code in wanted["exited"]:
        if not code.lstrip("-").isdecimal():
            raise UsageFault(f"invalid exit code {code!r}", hint="write exited=0")
    for name in ("before", "since"):
        if len(wanted[name]) > 1:
            raise UsageFault(f"{name} goes only once")
    request = container_pb2.ContainerServiceListRequest(
        all=everything or limit > 0 or bool(wanted["status"] or wanted["exited"]),
        states=[STATES.index(state) for state in wanted["status"]],  # type: ignore[misc]
        name=wanted["name"][0] if len(wanted["name"]) == 1 else "",
        image=wanted["ancestor"][0] if len(wanted["ancestor"]) == 1 else "",
        limit=limit if _carried(wanted) else 0,
        health=_health(wanted["health"]),  # type: ignore[arg-type]
        network=wanted["network"][0] if len(wanted["network"]) == 1 else "",
        volume=wanted["volume"][0] if len(wanted["volume"]) == 1 else "",
    )
    for label in wanted["label"]:
        key, _, value = label.partition("=")
        request.labels.add(key=key, value=value)
    return request


def _carried(wanted: dict[str, list[str]]) -> bool:
    """Whether the request says all of the filters, so that the host can count what passes them."""
    alone = any(wanted[key] for key in ("id", "exited", "publish", "before", "since"))
    return not alone and all(len(wanted[key]) <= 1 for key in ("name", "ancestor", "health", *_ONE))


def _health(words: list[str]) -> int:
    """The API asks for one status; 0: any."""
    return HEALTH.index(words[0]) if len(words) == 1 else 0


async def filtered(
    host: HostClient, request: container_pb2.ContainerServiceListRequest, wanted: dict[str, list[str]], limit: int = 0
) -> list[container_pb2.Container]:
    """The host's containers that pass the request and the filters that it can't carry; the newest so many (0: all).

    Raises NotFound where the host lacks the container that before= or since= names.
    """
    # Asked for by themselves: the list has only what passes the other filters.
    before = [await _made_at(host, reference) for reference in wanted["before"]]
    since = [await _made_at(host, reference) for reference in wanted["since"]]

    def passes(item: container_pb2.Container) -> bool:
        made = item.created_at.ToNanoseconds()
        return all(made < each for each in before) and all(made > each for each in since) and matches(item, wanted)

    found = {item.id: item for each in _each(request, wanted) for item in await host.containers(each) if passes(item)}
    newest = list(found.values())
    if any(len(wanted[key]) > 1 for key in _ONE):
        newest.sort(key=lambda item: item.created_at.ToNanoseconds(), reverse=True)
    return newest[:limit] if limit > 0 else newest


def _each(
    request: container_pb2.ContainerServiceListRequest, wanted: dict[str, list[str]]
) -> list[container_pb2.ContainerServiceListRequest]:
    """A request for each of several networks or volumes, of which any will do."""
    requests = [request]
    for key in (key for key in _ONE if len(wanted[key]) > 1):
        several = []
        for each in requests:
            for value in wanted[key]:
                one = type(request)()
                one.CopyFrom(each)
                setattr(one, key, value)
                several.append(one)
        requests = several
    return requests


async def _made_at(host: HostClient, reference: str) -> int:
    return (await host.inspect_container(reference)).container.created_at.ToNanoseconds()


def _publishes(item: container_pb2.Container, text: str) -> bool:
    """`80`, `80/udp`: a port of the host or of the container."""
    number, _, protocol = text.partition("/")
    for port in item.ports:
        is_udp = port.protocol == port.PROTOCOL_UDP
        if number in (str(port.host_port), str(port.container_port)) and is_udp == (protocol == "udp"):
            return True
    return False


def matches(item: container_pb2.Container, wanted: dict[str, list[str]]) -> bool:
    """Whether the container passes the filters that the request can't carry."""
    if wanted["id"] and not any(item.id.startswith(prefix) for prefix in wanted["id"]):
        return False
    if len(wanted["ancestor"]) > 1 and item.image not in wanted["ancestor"]:
        return False
    if wanted["health"] and HEALTH[item.health] not in wanted["health"]:
        return False
    if wanted["exited"] and not (STATES[item.state] == "exited" and str(item.exit_code) in wanted["exited"]):
        return False
    if wanted["publish"] and not any(_publishes(item, text) for text in wanted["publish"]):
        return False
    return not wanted["name"] or any(part in item.name for part in wanted["name"])
