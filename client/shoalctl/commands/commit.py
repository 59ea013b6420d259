"""`shoal commit`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def commit(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    reference: Annotated[str, typer.Argument(metavar="[NAME[:TAG]]", help="Else the image has only its id.")] = "",
    author: Annotated[str, typer.Option("-a", "--author", metavar="NAME", help="Who made it.")] = "",
    message: Annotated[str, typer.Option("-m", "--message", metavar="TEXT", help="For its history.")] = "",
    change: Annotated[
        list[str] | None,
        typer.Option("-c", "--change", metavar="INSTRUCTION", help="Of a Dockerfile, such as 'CMD [\"sh\"]'."),
    ] = None,
    pause: Annotated[
        bool, typer.Option("-p", "--pause/--no-pause", help="Hold the container still meanwhile (the default).")
    ] = True,
) -> None:
    """Make an image of a container's files (without volumes and secrets) and configuration, and print its id."""
    execute(_commit(ctx.obj, container, reference, author, message, change or [], pause=pause))


async def _commit(
    invocation: Invocation,
    container: str,
    reference: str,
    author: str,
    message: str,
    changes: list[str],
    *,
    pause: bool,
) -> int:
    from shoal.v1 import container_pb2
    from shoalctl.commands.batch import batch
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        request = container_pb2.ContainerServiceCommitRequest(
            name=name, reference=reference, author=author, message=message, changes=changes, no_pause=not pause
        )
        return [await lifecycle.commit(host, request)]

    return await batch(invocation, [container], work)
