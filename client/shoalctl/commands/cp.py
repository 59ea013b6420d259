"""`shoal cp`: files between this machine and a container."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.copy_paths import STREAM, CopyPath, parse_copy_path
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def cp(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="[CONTAINER:]SRC", help="A path, or - for a tar on stdin.")],
    destination: Annotated[str, typer.Argument(metavar="[CONTAINER:]DEST", help="A path, or - for a tar on stdout.")],
    archive: Annotated[bool, typer.Option("-a", "--archive", help="Keep owners.")] = False,
    follow_link: Annotated[bool, typer.Option("-L", "--follow-link", help="Follow a symbolic link at SRC.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing at the end.")] = False,
) -> None:
    """Copy files between this machine and a container, which need not run, on one host.

    As docker cp: a directory that exists takes SRC into it, SRC/. is the content of a directory.
    """
    if source == STREAM and destination == STREAM:
        raise UsageFault("one of the two must be in a container")
    from_, to = _path(source), _path(destination)
    if bool(from_.container) == bool(to.container):
        both = "copying between containers is not supported" if to.container else "neither path is in a container"
        raise UsageFault(both, hint="write CONTAINER:PATH for one of the two")
    execute(_cp(ctx.obj, from_, to, archive=archive, follow=follow_link, quiet=quiet))


def _path(text: str) -> CopyPath:
    return CopyPath("", STREAM) if text == STREAM else parse_copy_path(text)


async def _cp(
    invocation: Invocation, source: CopyPath, destination: CopyPath, *, archive: bool, follow: bool, quiet: bool
) -> int:
    async with invocation.fleet() as fleet:
        if len(fleet.names) > 1:
            raise UsageFault("cp needs a single host", hint="choose one with -H")
        from shoalctl.commands.copying import Copying
        from shoalctl.commands.outcome import single

        host = fleet.host(fleet.names[0])
        return await single(
            host.name, Copying(host, archive=archive, follow=follow, quiet=quiet).run(source, destination)
        )
