"""`shoal builder ls|attach|logs|cancel|du|prune`: builds of the hosts, and what they keep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.confirm import confirm
from shoalctl.flags.choices import check_progress
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app("Manage builds and what they keep.")

Texts = list[str] | None
COLUMNS = (
    Column("ID", "ID"),
    Column("KIND", "Kind"),
    Column("RECLAIMABLE", "Reclaimable"),
    Column("SIZE", "Size"),
    Column("LAST USED", "LastUsed"),
    Column("DESCRIPTION", "Description"),
)


BUILD_COLUMNS = (
    Column("ID", "ID"),
    Column("STATE", "State"),
    Column("NAME", "Name"),
    Column("STARTED", "Started"),
    Column("TOOK", "Took"),
)


@app.command("ls", cls=HostCommand)
def list_builds(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """List builds that go on, and those that ended in the last ten minutes."""
    from shoalctl.commands.builds import show_list

    invocation: Invocation = ctx.obj
    listing = Listing(BUILD_COLUMNS, "ID", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    execute(show_list(invocation, listing))


@app.command("attach", cls=HostCommand)
def attach(
    ctx: typer.Context,
    build: Annotated[str, typer.Argument(metavar="ID", help="As `build --detach` printed it, or its beginning.")],
    progress: Annotated[
        str, typer.Option("--progress", metavar="HOW", help="auto, plain, tty, quiet or json.")
    ] = "auto",
) -> None:
    """Follow a build from its beginning to its end. Ctrl-C leaves it going on."""
    from shoalctl.commands.builds import follow

    check_progress(progress)
    execute(follow(ctx.obj, build, progress, wait=True))


@app.command("logs", cls=HostCommand)
def logs(
    ctx: typer.Context,
    build: Annotated[str, typer.Argument(metavar="ID")],
    wait: Annotated[bool, typer.Option("-f", "--follow", help="Until its end, as attach.")] = False,
    progress: Annotated[str, typer.Option("--progress", metavar="HOW", help="plain or json.")] = "plain",
) -> None:
    """Show what a build has said so far."""
    from shoalctl.commands.builds import follow

    check_progress(progress)
    execute(follow(ctx.obj, build, progress, wait=wait))


@app.command("cancel", cls=HostCommand)
def cancel(
    ctx: typer.Context,
    builds: Annotated[list[str], typer.Argument(metavar="ID...")],
) -> None:
    """End builds. One that has ended is a success."""
    from shoalctl.commands.builds import cancel_all

    execute(cancel_all(ctx.obj, builds))


app.command("list", cls=HostCommand, hidden=True)(list_builds)


@app.command("du", cls=HostCommand)
def usage(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """List what the builder keeps, the least recently used first. What an image shares is not reclaimable."""
    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "ID", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    execute(_usage(invocation, listing))


@app.command("prune", cls=HostCommand)
def prune(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("-a", help="Also what images share.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Do not ask.")] = False,
    filter_: Annotated[
        Texts, typer.Option("--filter", metavar="until=TIME", help="Unused since 24h or a date.")
    ] = None,
    keep_storage: Annotated[
        str, typer.Option("--keep-storage", metavar="SIZE", help="Leave the most recently used of this size.")
    ] = "",
) -> None:
    """Delete results of build steps and cache mounts that no image and no running build needs."""
    from shoalctl.flags.filters import parse_filters
    from shoalctl.flags.sizes import parse_size
    from shoalctl.flags.times import parse_time

    wanted = parse_filters(filter_ or (), ("until",))["until"]
    if len(wanted) > 1:
        raise UsageFault("until goes only once")
    until = parse_time(wanted[0], datetime.now(UTC)) if wanted else None
    keep = parse_size(keep_storage) if keep_storage else 0
    if not force:
        confirm("the build cache")
    execute(_prune(ctx.obj, everything=everything, until=until, keep=keep))


async def _usage(invocation: Invocation, listing: Listing) -> int:
    from shoal.v1 import image_pb2
    from shoalctl.commands.outcome import collected, presented
    from shoalctl.fleet.buildcache import list_build_cache
    from shoalctl.render.human import ago, size

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(list_build_cache), fleet.names)
    now = datetime.now(UTC)
    return presented(
        listing,
        results,
        lambda host, items: [
            {
                "Host": host,
                "ID": item.id if listing.format == "json" else item.id[:12],
                "Kind": image_pb2.BuildCacheRecord.Kind.Name(item.kind).removeprefix("KIND_").lower(),
                "Reclaimable": not item.shared and not item.in_use,
                "Size": size(item.size_bytes),
                "SizeBytes": item.size_bytes,
                "LastUsed": ago(item.last_used_at.ToDatetime(UTC), now),
                "CreatedAt": item.created_at.ToDatetime(UTC).isoformat(),
                "UsageCount": item.use_count,
                "InUse": item.in_use,
                "Shared": item.shared,
                "Description": " ".join(item.description.split()),
            }
            for item in items
        ],
    )


async def _prune(invocation: Invocation, *, everything: bool, until: datetime | None, keep: int) -> int:
    from shoalctl.commands.outcome import collected, pruned
    from shoalctl.fleet.buildcache import prune_build_cache

    async with invocation.fleet() as fleet:
        results = await collected(
            fleet.each(lambda host: prune_build_cache(host, everything=everything, until=until, keep_bytes=keep)),
            fleet.names,
        )
    return pruned(fleet.names, results, lambda answer: (answer.ids, answer.freed_bytes))
