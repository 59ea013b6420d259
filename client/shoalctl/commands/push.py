"""`shoal push`: an image of the hosts to its registry."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.credentials import given
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def push(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A reference with the registry's name.")],
    creds: Annotated[
        str, typer.Option("--creds", metavar="USER:PASSWORD", help="Instead of those in ~/.docker/config.json.")
    ] = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only the digest.")] = False,
) -> None:
    """Push an image to a registry."""
    from shoalctl.flags.images import checked_reference

    invocation: Invocation = ctx.obj
    execute(_push(invocation, checked_reference(image), given(creds), quiet=quiet))


async def _push(invocation: Invocation, reference: str, creds: tuple[str, str] | None, *, quiet: bool) -> int:
    from shoalctl.commands.credentials import credentials
    from shoalctl.commands.transfer import transfer

    secret = await credentials(creds, reference)
    async with invocation.fleet() as fleet:
        return await transfer(
            fleet,
            lambda progress, request_id: fleet.push(
                reference, credentials=secret, progress=progress, request_id=request_id
            ),
            lambda pushed: pushed.digest if quiet else f"{reference}: {pushed.digest} size: {pushed.size_bytes}",
            quiet=quiet,
        )
