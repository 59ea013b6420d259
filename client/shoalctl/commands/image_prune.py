"""`shoal image prune`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.confirm import confirm
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.filters import parse_filters
from shoalctl.flags.times import parse_time
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def prune(
    ctx: typer.Context,
    unused: Annotated[
        bool, typer.Option("-a", "--unused", help="All that no container uses, not only those without a name.")
    ] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Do not ask.")] = False,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KEY=VALUE", help="label=KEY[=VALUE], until=24h or a date."),
    ] = None,
) -> None:
    """Delete images that have no name, and that no container uses. What builds keep stays: see `builder prune`."""
    wanted = parse_filters(filter_ or (), ("label", "until"))
    labels = [(key, value) for key, _, value in (text.partition("=") for text in wanted["label"])]
    if len(wanted["until"]) > 1:
        raise UsageFault("until goes only once")
    until = parse_time(wanted["until"][0], datetime.now(UTC)) if wanted["until"] else None
    if not force:
        confirm("all images that no container uses" if unused else "all images without a name that no container uses")
    execute(_prune(ctx.obj, labels, until, unused=unused))


async def _prune(invocation: Invocation, labels: list[tuple[str, str]], until: datetime | None, *, unused: bool) -> int:
    from shoalctl.commands.image_rows import familiar
    from shoalctl.commands.outcome import collected, report
    from shoalctl.render import console
    from shoalctl.render.human import size
    from shoalctl.render.marks import MarkedLines

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: host.prune_images(labels, until, unused=unused)), fleet.names)
        marks = MarkedLines(fleet.names)
    for result in results:
        if result.ok:
            for name in result.get().untagged:
                marks.line(result.host, f"Untagged: {familiar(name)}")
            for image in result.get().deleted:
                marks.line(result.host, f"Deleted: {image}")
    freed = sum(result.get().freed_bytes for result in results if result.ok)
    console.out(f"Total reclaimed space: {size(freed)}")
    return report(results)
