"""`shoal pull`: an image from its registry to the hosts."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.credentials import given
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def pull(
    ctx: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A reference: busybox, ghcr.io/a/b:tag, name@sha256:...")
    ],
    platform: Annotated[str, typer.Option("--platform", metavar="OS/ARCH", help="Instead of the host's own.")] = "",
    creds: Annotated[
        str, typer.Option("--creds", metavar="USER:PASSWORD", help="Instead of those in ~/.docker/config.json.")
    ] = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only the image's id.")] = False,
) -> None:
    """Pull an image from a registry."""
    from shoalctl.flags.images import checked_platform, checked_reference

    invocation: Invocation = ctx.obj
    reference = checked_reference(image)
    execute(_pull(invocation, reference, checked_platform(platform), given(creds), quiet=quiet))


async def _pull(
    invocation: Invocation,
    reference: str,
    platform: tuple[str, str, str] | None,
    creds: tuple[str, str] | None,
    *,
    quiet: bool,
) -> int:
    from shoalctl.commands.credentials import credentials
    from shoalctl.commands.messages import platform_message
    from shoalctl.commands.transfer import transfer

    secret = await credentials(creds, reference)
    async with invocation.fleet() as fleet:
        return await transfer(
            fleet,
            lambda progress, request_id: fleet.pull(
                reference,
                platform=platform_message(platform),
                credentials=secret,
                progress=progress,
                request_id=request_id,
            ),
            lambda image: image.id if quiet else f"{reference}: {image.id}",
            quiet=quiet,
        )
