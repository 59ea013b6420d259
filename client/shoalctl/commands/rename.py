"""`shoal rename`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def rename(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    name: Annotated[str, typer.Argument(metavar="NEW_NAME")],
) -> None:
    """Give a container another name."""
    if not name:
        raise UsageFault("the new name is empty")
    execute(_rename(ctx.obj, container, name))


async def _rename(invocation: Invocation, container: str, name: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, _: str) -> list[str]:
        await lifecycle.rename(host, container, name)
        return []

    return await batch(invocation, [container], work)
