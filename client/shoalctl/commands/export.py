"""`shoal export`: a container's root file system as a tar."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def export(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Instead of standard output.")] = "",
) -> None:
    """Write a container's root file system, without its volumes, as a tar archive."""
    if not output and sys.stdout.isatty():
        raise UsageFault("an archive is not for a terminal", hint="write it to a file: -o FILE, or into a pipe")
    execute(_export(ctx.obj, container, output))


async def _export(invocation: Invocation, name: str, output: str) -> int:
    async with invocation.fleet() as fleet:
        if len(fleet.names) > 1:
            raise UsageFault("an export is of a single host", hint="choose one with -H")
        from shoalctl.commands.exporting import write_archive
        from shoalctl.commands.outcome import single
        from shoalctl.fleet.copying import export_container

        host = fleet.host(fleet.names[0])
        return await single(host.name, write_archive(export_container(host, name), output))
