"""`shoal export`: a container's root file system as a tar."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from shoalctl import exits
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def export(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Instead of standard output.")] = "",
) -> None:
    """Write a container's root file system, without its volumes, as a tar archive."""
    if not output and sys.stdout.isatty():
        raise UsageFault("an archive is not for a terminal", hint="write it to a file: -o FILE, or into a pipe")
    execute(_export(ctx.obj, container, output))


async def _export(invocation: Invocation, name: str, output: str) -> int:
    """A file is whole or not there."""
    async with invocation.fleet() as fleet:
        if len(fleet.names) > 1:
            raise UsageFault("an export is of a single host", hint="choose one with -H")
        from shoalctl.fleet.copying import export_container

        async def write(file: BinaryIO) -> None:
            async with aclosing(export_container(fleet.host(fleet.names[0]), name)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            file.flush()

        if not output:
            await write(sys.stdout.buffer)
            return exits.OK
        temporary = Path(f"{output}.{os.getpid()}.part")
        try:
            with temporary.open("xb") as file:
                await write(file)
            temporary.replace(output)
        except OSError as error:
            raise UsageFault(f"can't write {output}: {error.strerror}") from error
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    return exits.OK
