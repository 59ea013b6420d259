"""`shoal ps`: containers of the hosts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.filters import parse_filters
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

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
FILTERS = ("name", "id", "label", "status", "ancestor")


@app.command(cls=HostCommand)
def ps(
    ctx: typer.Context,
    a: Annotated[bool, typer.Option("-a", "--all-states", help="Also containers that do not run.")] = False,
    last: Annotated[int, typer.Option("-n", "--last", metavar="N", help="The last N created, of any state.")] = 0,
    latest: Annotated[bool, typer.Option("-l", "--latest", help="The last created, of any state.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
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
    listing = Listing(COLUMNS, "ID", format_, quiet, several=len(hosts) > 1)
    listing.check()
    limit = 1 if latest else last
    execute(_ps(invocation, wanted, listing, everything=a, limit=limit, full=no_trunc or format_ == "json"))


async def _ps(
    invocation: Invocation,
    wanted: dict[str, list[str]],
    listing: Listing,
    *,
    everything: bool,
    limit: int,
    full: bool,
) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connections are being made.
        from shoalctl.commands.container_filters import list_request, matches
        from shoalctl.commands.container_rows import container_row
        from shoalctl.commands.outcome import collected, presented

        request = list_request(wanted, everything=everything, limit=limit)
        results = await collected(fleet.containers(request), fleet.names)
    now = datetime.now(UTC)
    return presented(
        listing,
        results,
        lambda host, items: [container_row(host, item, now, full=full) for item in items if matches(item, wanted)],
    )
