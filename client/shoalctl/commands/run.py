"""`shoal run`: create and start a container on the hosts, and follow it unless it is detached."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import execute, verb_app
from shoalctl.commands.container_flags import SETTINGS, ContainerCommand
from shoalctl.commands.run_flags import parsed
from shoalctl.commands.run_options import RunOptions
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=ContainerCommand, context_settings=SETTINGS)
def run(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A reference or an image id.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND] [ARG...]", help="Instead of the image's.")
    ] = None,
) -> None:
    """Create and start a container, on each host that is asked.

    On one host the exit code is the container's. Signals go to the container; with -it, ctrl-p ctrl-q detaches.
    """
    execute(_run(ctx.obj, parsed(ctx, image, command or ())))


async def _run(invocation: Invocation, options: RunOptions) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.running import Running

        return await Running(fleet, options).run()
