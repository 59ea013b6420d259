"""`shoal stop`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.process import parse_signal
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def stop(
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
    """Stop containers: send the stop signal, wait for the grace time, then kill. A stopped one is a success."""
    grace = None if time is None else timedelta(seconds=max(time, -1))
    execute(_stop(ctx.obj, containers, grace, parse_signal(signal) if signal else ""))


async def _stop(invocation: Invocation, containers: list[str], grace: timedelta | None, signal: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await host.stop(name, timeout=grace, signal=signal)
        return [name]

    return await batch(invocation, containers, work)
