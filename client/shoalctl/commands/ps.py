"""`shoal ps`: containers of the hosts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.filters import parse_filters
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

app = verb_app()

COLUMNS = (
    Column("CONTAINER ID", "ID"),
    Column("IMAGE", "Image"),
    Column("COMMAND", "Command"),
    Column("CREATED", "RunningFor"),
    Column("STATUS", "Status"),
    Column("PORTS", "Ports"),
    Column("NAMES", "Names"),
)
SIZE = Column("SIZE", "Size")
FILTERS = (
    "name", "id", "label", "status", "ancestor", "health", "network", "volume", "exited", "publish", "before", "since",
)  # fmt: skip


@app.command(cls=HostCommand)
def ps(
    ctx: typer.Context,
    a: Annotated[bool, typer.Option("-a", "--all-states", help="Also containers that do not run.")] = False,
    last: Annotated[int, typer.Option("-n", "--last", metavar="N", help="The last N created, of any state.")] = 0,
    latest: Annotated[bool, typer.Option("-l", "--latest", help="The last created, of any state.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
    sizes: Annotated[bool, typer.Option("-s", "--size", help="Also the size of what they have written.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show ids and commands in full.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("-f", "--filter", metavar="KEY=VALUE", help=f"Only those that match; {', '.join(FILTERS)}."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template such as '{{.ID}} {{.Names}}'.")
    ] = "",
) -> None:
    """List containers, newest first. (`--all` means all hosts; containers of every state are `-a`.)"""
    invocation: Invocation = ctx.obj
    wanted = parse_filters(filters or (), FILTERS)
    hosts = invocation.selected()
    columns = (*COLUMNS, SIZE) if sizes else COLUMNS
    listing = Listing(columns, "ID", format_, quiet, several=len(hosts) > 1)
    listing.check()
    limit = 1 if latest else last
    sizes = sizes or ".Size" in format_
    full = no_trunc or format_ == "json"
    execute(_ps(invocation, wanted, listing, everything=a, limit=limit, sizes=sizes, full=full))


async def _ps(
    invocation: Invocation,
    wanted: dict[str, list[str]],
    listing: Listing,
    *,
    everything: bool,
    limit: int,
    sizes: bool,
    full: bool,
) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connections are being made.
        from shoalctl.commands.container_filters import filtered, list_request
        from shoalctl.commands.container_rows import container_row
        from shoalctl.commands.outcome import collected, presented

        request = list_request(wanted, everything=everything, limit=limit)
        request.sizes = sizes
        results = await collected(fleet.each(lambda host: filtered(host, request, wanted, limit)), fleet.names)
    now = datetime.now(UTC)

    def rows(host: str, items: list[container_pb2.Container]) -> list[dict[str, Any]]:
        return [container_row(host, item, now, full=full) for item in items]

    return presented(listing, results, rows)
