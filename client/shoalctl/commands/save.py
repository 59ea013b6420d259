"""`shoal save`: images as an archive."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def save(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Instead of standard output.")] = "",
) -> None:
    """Write images as a tar archive: an OCI image layout that docker and podman load too."""
    if not output and sys.stdout.isatty():
        raise UsageFault("an archive is not for a terminal", hint="write it to a file: -o FILE, or into a pipe")
    execute(_save(ctx.obj, images, output))


async def _save(invocation: Invocation, names: list[str], output: str) -> int:
    async with invocation.fleet() as fleet:
        if len(fleet.names) > 1:
            raise UsageFault("an archive is of a single host", hint="choose one with -H")
        from shoalctl.commands.exporting import write_archive
        from shoalctl.commands.outcome import single
        from shoalctl.fleet.archives import save_images

        host = fleet.host(fleet.names[0])
        return await single(host.name, write_archive(save_images(host, names, docker=True), output))
