"""`shoal create`: as `run`, without the start."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import execute, verb_app
from shoalctl.commands.container_flags import SETTINGS, CreateCommand
from shoalctl.commands.run_flags import parsed
from shoalctl.commands.run_options import RunOptions
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=CreateCommand, context_settings=SETTINGS)
def create(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A reference or an image id.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND] [ARG...]", help="Instead of the image's.")
    ] = None,
) -> None:
    """Create a container and print its id; `shoal start` runs it."""
    execute(_create(ctx.obj, parsed(ctx, image, command or ())))


async def _create(invocation: Invocation, options: RunOptions) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.creating import Creating

        return await Creating(fleet, options).run()
