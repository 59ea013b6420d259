"""`shoal manifest VERB`: image indexes, one image for several platforms."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.images import checked_reference
from shoalctl.invocation import Invocation

app = verb_app("Manage image indexes: one image for several platforms.")


@app.command(cls=HostCommand)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:TAG]", help="What the index is called.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids, one for each platform.")],
) -> None:
    """Make an index of images that the host has; `push` and `save` then send all of it."""
    execute(_create(ctx.obj, checked_reference(name), images))


@app.command(cls=HostCommand)
def inspect(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[:TAG]", help="A tag, or the digest of an index.")],
) -> None:
    """Print an index that the host has, as JSON."""
    execute(_inspect(ctx.obj, name))


async def _create(invocation: Invocation, name: str, images: list[str]) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.indexes import create_index

    async def work(host: HostClient, tag: str) -> list[str]:
        return [(await create_index(host, images, [tag])).digest]

    return await batch(invocation, [name], work)


async def _inspect(invocation: Invocation, name: str) -> int:
    import json

    from shoalctl import exits
    from shoalctl.commands.outcome import collected
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.indexes import inspect_index
    from shoalctl.render import console
    from shoalctl.render.errors import show_error

    async def ask(host: HostClient) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await inspect_index(host, name)).raw)
        return found

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(ask), fleet.names)
    for result in results:
        if result.error is not None:
            show_error(result.error, result.host)
        elif len(results) == 1:
            console.out(json.dumps(result.get(), indent=4))
        else:
            console.out(json.dumps({"Host": result.host, **result.get()}, indent=4))
    return exits.combined(result.error is not None for result in results)
