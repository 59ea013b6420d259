"""`shoal volume create|ls|inspect|rm|prune|export|import`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.confirm import confirm
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app("Manage volumes.")

Texts = list[str] | None
COLUMNS = (Column("DRIVER", "Driver"), Column("VOLUME NAME", "Name"), Column("CREATED", "CreatedAt"))
FILTERS = ("dangling", "driver", "label", "name")


@app.command("create", cls=HostCommand)
def create(
    ctx: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="[VOLUME]", help="Its name; else a random one.")] = "",
    driver: Annotated[str, typer.Option("-d", "--driver", metavar="DRIVER", help="There is only local.")] = "local",
    label: Annotated[Texts, typer.Option("--label", metavar="KEY=VALUE", help="Label it.")] = None,
    opt: Annotated[
        Texts, typer.Option("-o", "--opt", metavar="KEY=VALUE", help="type=, device= or o= (role admin).")
    ] = None,
) -> None:
    """Make a volume and print its name. One that is there with the same options is a success."""
    from shoalctl.flags.environment import labels

    if driver != "local":
        raise UsageFault(f"there is no volume driver {driver!r}, only local")
    execute(_create(ctx.obj, volume, labels(label or ()), _options(opt or ())))


@app.command("ls", cls=HostCommand)
def list_volumes(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only names.")] = False,
    filter_: Annotated[
        Texts, typer.Option("-f", "--filter", metavar="KEY=VALUE", help="dangling, driver, label or name.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """List volumes by name."""
    from shoalctl.flags.filters import boolean_filter, parse_filters

    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "Name", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    filters = parse_filters(filter_ or (), FILTERS)
    execute(_list(invocation, listing, filters, boolean_filter(filters, "dangling")))


@app.command("inspect", cls=HostCommand)
def inspect(
    ctx: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...")],
    format_: Annotated[str, typer.Option("-f", "--format", metavar="FORMAT", help="A template, or json.")] = "",
) -> None:
    """Show all that is known of volumes: a JSON array in docker's shape."""
    from shoalctl.commands.volume_archive import inspect_volumes

    Listing((), "", format_).check()
    execute(inspect_volumes(ctx.obj, volumes, format_))


@app.command("rm", cls=HostCommand)
def remove(
    ctx: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...")],
    force: Annotated[bool, typer.Option("-f", "--force", help="A missing one is no error.")] = False,
) -> None:
    """Delete volumes with their content."""
    execute(_remove(ctx.obj, volumes, force=force))


@app.command("prune", cls=HostCommand)
def prune(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("-a", help="Named volumes too.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Do not ask.")] = False,
    filter_: Annotated[
        Texts, typer.Option("--filter", metavar="label=KEY[=VALUE]", help="Only those with this label.")
    ] = None,
) -> None:
    """Delete the volumes that no container names: anonymous ones, or with -a every one."""
    from shoalctl.flags.filters import parse_filters

    wanted = parse_filters(filter_ or (), ("label",))["label"]
    labels = [(key, value) for key, _, value in (text.partition("=") for text in wanted)]
    if not force:
        confirm(f"{'all' if everything else 'all anonymous'} volumes that no container names")
    execute(_prune(ctx.obj, everything=everything, labels=labels))


@app.command("export", cls=HostCommand)
def export(
    ctx: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="VOLUME")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Instead of standard output.")] = "",
) -> None:
    """Write a volume's content as a tar archive, of one host."""
    from shoalctl.commands.volume_archive import export_to

    execute(export_to(ctx.obj, volume, output))


@app.command("import", cls=HostCommand)
def import_(
    ctx: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="Made if it does not exist.")],
    source: Annotated[str, typer.Argument(metavar="[FILE|-]", help="A tar: plain, gzip or zstd.")] = "-",
) -> None:
    """Unpack a tar archive into a volume, over what is there."""
    from shoalctl.commands.volume_archive import import_from

    execute(import_from(ctx.obj, volume, source))


app.command("list", cls=HostCommand, hidden=True)(list_volumes)
app.command("remove", cls=HostCommand, hidden=True)(remove)


def _options(entries: list[str] | tuple[()]) -> dict[str, str]:
    options: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise UsageFault(f"invalid option {entry!r}", hint="write type=, device= or o=, each with its value")
        options[key] = value
    return options


async def _create(invocation: Invocation, name: str, labels: dict[str, str], options: dict[str, str]) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.volumes import create_volume

    async def work(host: HostClient, wanted: str) -> list[str]:
        return [(await create_volume(host, wanted, labels=labels, options=options)).name]

    return await batch(invocation, [name], work)


async def _list(invocation: Invocation, listing: Listing, filters: dict[str, list[str]], dangling: bool | None) -> int:
    from shoal.v1 import volume_pb2
    from shoalctl.commands.container_rows import label_text, moment
    from shoalctl.commands.outcome import collected, presented
    from shoalctl.fleet.volumes import list_used_volumes, list_volumes

    list_some = list_used_volumes if dangling is False else list_volumes
    request = volume_pb2.VolumeServiceListRequest(dangling=dangling is True)
    for text in filters["label"]:
        key, _, value = text.partition("=")
        request.labels.add(key=key, value=value)
    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: list_some(host, request)), fleet.names)
    only_local = all(driver == "local" for driver in filters["driver"])
    return presented(
        listing,
        results,
        lambda host, items: [
            {
                "Host": host,
                "Name": item.name,
                "Driver": "local",
                "Scope": "local",
                "CreatedAt": moment(item.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                "Mountpoint": item.mountpoint,
                "Anonymous": item.anonymous,
                "Labels": label_text(item.labels),
            }
            for item in items
            if only_local and (not filters["name"] or any(part in item.name for part in filters["name"]))
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


async def _prune(invocation: Invocation, *, everything: bool, labels: list[tuple[str, str]]) -> int:
    from shoalctl.commands.outcome import collected, pruned
    from shoalctl.fleet.volumes import prune_volumes

    async with invocation.fleet() as fleet:
        results = await collected(
            fleet.each(lambda host: prune_volumes(host, everything=everything, labels=labels)), fleet.names
        )
    return pruned(fleet.names, results, lambda answer: (answer.names, answer.freed_bytes))
