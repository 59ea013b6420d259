"""`shoal unpause`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def unpause(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
) -> None:
    """Let all processes of paused containers go on."""
    execute(_unpause(ctx.obj, containers))


async def _unpause(invocation: Invocation, containers: list[str]) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await lifecycle.unpause(host, name)
        return [name]

    return await batch(invocation, containers, work)
