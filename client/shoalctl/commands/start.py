"""`shoal start`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def start(ctx: typer.Context, containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")]) -> None:
    """Start stopped containers. A running one is a success."""
    execute(_start(ctx.obj, containers))


async def _start(invocation: Invocation, containers: list[str]) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await host.start(name)
        return [name]

    return await batch(invocation, containers, work)
