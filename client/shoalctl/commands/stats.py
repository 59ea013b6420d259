"""`shoal stats`: what containers of the hosts use."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app()

COLUMNS = (
    Column("CONTAINER ID", "ID"),
    Column("NAME", "Name"),
    Column("CPU %", "CPUPerc"),
    Column("MEM USAGE / LIMIT", "MemUsage"),
    Column("MEM %", "MemPerc"),
    Column("NET I/O", "NetIO"),
    Column("BLOCK I/O", "BlockIO"),
    Column("PIDS", "PIDs"),
)


@app.command(cls=HostCommand)
def stats(
    ctx: typer.Context,
    containers: Annotated[list[str] | None, typer.Argument(metavar="[CONTAINER...]", help="Else all that run.")] = None,
    a: Annotated[bool, typer.Option("-a", "--all-states", help="Also containers that do not run.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Show the first figures and end.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show ids in full.")] = False,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template: '{{.Name}} {{.CPUPerc}}'.")
    ] = "",
) -> None:
    """Show what containers use, again every second: of several containers and hosts in one table."""
    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "ID", format_, several=len(invocation.selected()) > 1)
    listing.check()
    execute(_stats(invocation, containers or [], listing, everything=a, once=no_stream, full=no_trunc))


async def _stats(
    invocation: Invocation, names: list[str], listing: Listing, *, everything: bool, once: bool, full: bool
) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connections are being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.measuring import Measuring

        return await Measuring(fleet, names, listing, everything=everything, full=full).run(once=once)
