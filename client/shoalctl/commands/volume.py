"""`shoal volume ls|rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app("List and remove volumes.")

COLUMNS = (Column("VOLUME NAME", "Name"), Column("CREATED", "CreatedAt"), Column("MOUNTPOINT", "Mountpoint"))


@app.command("ls", cls=HostCommand)
def list_volumes(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only names.")] = False,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """List volumes by name."""
    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "Name", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    execute(_list(invocation, listing))


@app.command("rm", cls=HostCommand)
def remove(
    ctx: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...")],
    force: Annotated[bool, typer.Option("-f", "--force", help="A missing one is no error.")] = False,
) -> None:
    """Delete volumes with their content."""
    execute(_remove(ctx.obj, volumes, force=force))


app.command("list", cls=HostCommand, hidden=True)(list_volumes)


async def _list(invocation: Invocation, listing: Listing) -> int:
    from shoalctl.commands.container_rows import label_text, moment
    from shoalctl.commands.outcome import collected, presented

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: host.volumes()), fleet.names)
    return presented(
        listing,
        results,
        lambda host, items: [
            {
                "Host": host,
                "Name": item.name,
                "Driver": "local",
                "CreatedAt": moment(item.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                "Mountpoint": item.mountpoint,
                "Anonymous": item.anonymous,
                "Labels": label_text(item.labels),
            }
            for item in items
        ],
    )


async def _remove(invocation: Invocation, volumes: list[str], *, force: bool) -> int:
    from shoal.errors import NotFound
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        try:
            await host.remove_volume(name)
        except NotFound:
            if not force:
                raise
            return []
        return [name]

    return await batch(invocation, volumes, work)
