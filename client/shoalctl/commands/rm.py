"""`shoal rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def rm(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    force: Annotated[bool, typer.Option("-f", "--force", help="Kill running ones; a missing one is no error.")] = False,
    volumes: Annotated[bool, typer.Option("-v", "--volumes", help="Remove their anonymous volumes too.")] = False,
) -> None:
    """Remove containers with their logs and writable layers."""
    execute(_rm(ctx.obj, containers, force=force, volumes=volumes))


async def _rm(invocation: Invocation, containers: list[str], *, force: bool, volumes: bool) -> int:
    from shoal.errors import NotFound
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        try:
            await host.remove(name, force=force, volumes=volumes)
        except NotFound:
            if not force:
                raise
            return []
        return [name]

    return await batch(invocation, containers, work)
