"""`shoal rmi`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def rmi(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="References or ids.")],
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Also ids with several names and images of stopped containers.")
    ] = False,
) -> None:
    """Take names from images, and delete images with their last name."""
    execute(_rmi(ctx.obj, images, force=force))


async def _rmi(invocation: Invocation, images: list[str], *, force: bool) -> int:
    from shoal.errors import NotFound
    from shoalctl.commands.batch import batch
    from shoalctl.commands.image_rows import familiar
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        try:
            removed = await host.remove_image(name, force=force)
        except NotFound:
            if not force:
                raise
            return []
        names = [f"Untagged: {familiar(name)}" for name in removed.untagged]
        return [*names, *(f"Deleted: {image}" for image in removed.deleted)]

    return await batch(invocation, images, work)
