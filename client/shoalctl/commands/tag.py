"""`shoal tag`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.images import checked_reference
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def tag(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A reference or an image id.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The new name.")],
) -> None:
    """Give an image one more name; the name moves if another image had it."""
    execute(_tag(ctx.obj, source, checked_reference(target)))


async def _tag(invocation: Invocation, source: str, target: str) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        await host.tag(name, target)
        return []

    return await batch(invocation, [source], work)
