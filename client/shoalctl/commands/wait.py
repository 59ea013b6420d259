"""`shoal wait`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()

CONDITIONS = {"not-running": 1, "next-exit": 2, "removed": 3, "healthy": 4}


@app.command(cls=HostCommand)
def wait(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    condition: Annotated[
        str, typer.Option("--condition", metavar="WHAT", help="not-running, next-exit, removed or healthy.")
    ] = "not-running",
) -> None:
    """Wait until containers stop, and print their exit codes; or until they are healthy."""
    if condition not in CONDITIONS:
        raise UsageFault(f"unknown condition {condition!r}", hint=f"choose {', '.join(CONDITIONS)}")
    execute(_wait(ctx.obj, containers, CONDITIONS[condition]))


async def _wait(invocation: Invocation, containers: list[str], condition: int) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        return [str((await host.wait(name, condition)).exit_code)]

    return await batch(invocation, containers, work)
