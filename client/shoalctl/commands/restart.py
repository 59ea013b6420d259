"""`shoal restart`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.process import parse_signal
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def restart(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    time: Annotated[
        int | None,
        typer.Option(
            "-t", "--timeout", "--time", metavar="SECONDS", help="Grace time before the kill; -1: without end."
        ),
    ] = None,
    signal: Annotated[
        str, typer.Option("-s", "--signal", metavar="SIGNAL", help="Instead of the container's own.")
    ] = "",
) -> None:
    """Stop containers as `stop` does, and start them. One that does not run is only started."""
    grace = None if time is None else timedelta(seconds=max(time, -1))
    execute(_restart(ctx.obj, containers, grace, parse_signal(signal) if signal else ""))


async def _restart(invocation: Invocation, containers: list[str], grace: timedelta | None, signal: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await lifecycle.restart(host, name, timeout=grace, signal=signal)
        return [name]

    return await batch(invocation, containers, work)
