"""`shoal port`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.errors import NotFound
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

app = verb_app()


@app.command(cls=HostCommand)
def port(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    private: Annotated[str, typer.Argument(metavar="[PORT[/PROTO]]", help="Of the container; else all.")] = "",
) -> None:
    """List the published ports of a container, or where one of them is."""
    execute(_port(ctx.obj, container, _parsed(private)))


def _parsed(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    number, _, protocol = text.partition("/")
    if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in ("", "tcp", "udp"):
        raise UsageFault(f"invalid port {text!r}", hint="write 80, 80/tcp or 53/udp")
    return int(number), protocol or "tcp"


async def _port(invocation: Invocation, container: str, wanted: tuple[int, str] | None) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        item = (await host.inspect_container(name)).container
        found = _published(item.ports)
        if wanted is None:
            return [f"{number}/{protocol} -> {place}" for (number, protocol), place in found]
        places = [place for key, place in found if key == wanted]
        if not places:
            raise NotFound(
                f"no public port '{wanted[0]}/{wanted[1]}' published for {item.name}", reason="PORT_NOT_FOUND"
            )
        return places

    return await batch(invocation, [container], work)


def _published(ports: Iterable[container_pb2.PortMapping]) -> list[tuple[tuple[int, str], str]]:
    found = []
    for each in ports:
        if each.host_port:
            address = f"[{each.host_ip}]" if ":" in each.host_ip else each.host_ip
            protocol = "udp" if each.protocol == each.PROTOCOL_UDP else "tcp"
            found.append(((each.container_port, protocol), f"{address}:{each.host_port}"))
    return sorted(found)
