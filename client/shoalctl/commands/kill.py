"""`shoal kill`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.process import parse_signal
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def kill(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    signal: Annotated[str, typer.Option("-s", "--signal", metavar="SIGNAL", help="A name or a number.")] = "KILL",
) -> None:
    """Send a signal to the first process of containers."""
    execute(_kill(ctx.obj, containers, parse_signal(signal)))


async def _kill(invocation: Invocation, containers: list[str], signal: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await host.kill(name, signal)
        return [name]

    return await batch(invocation, containers, work)
