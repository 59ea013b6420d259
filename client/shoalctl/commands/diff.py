"""`shoal diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()
_LETTERS = ("", "C", "A", "D")


@app.command(cls=HostCommand)
def diff(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
) -> None:
    """List the files that a container changed of its image: A added, C changed, D deleted."""
    execute(_diff(ctx.obj, container))


async def _diff(invocation: Invocation, container: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient
    from shoalctl.render.console import printable

    async def work(host: HostClient, name: str) -> list[str]:
        return [f"{_LETTERS[each.kind]} {printable(each.path)}" for each in await lifecycle.changes(host, name)]

    return await batch(invocation, [container], work)
