"""`shoal images`: images of the hosts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.filters import boolean_filter, parse_filters
from shoalctl.flags.images import checked_pattern
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app()

COLUMNS = (
    Column("REPOSITORY", "Repository"),
    Column("TAG", "Tag"),
    Column("IMAGE ID", "ID"),
    Column("CREATED", "CreatedSince"),
    Column("SIZE", "Size"),
)
DIGESTS = Column("DIGEST", "Digest")
FILTERS = ("label", "dangling", "reference")


@app.command(cls=HostCommand)
def images(
    ctx: typer.Context,
    repository: Annotated[
        str, typer.Argument(metavar="[REPOSITORY[:TAG]]", help="Only this name; also *, ? and [...].")
    ] = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show ids in full.")] = False,
    digests: Annotated[bool, typer.Option("--digests", help="Show manifest digests.")] = False,
    parts: Annotated[
        bool, typer.Option("-a", "--parts", help="With those that only an index names, of other platforms.")
    ] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("-f", "--filter", metavar="KEY=VALUE", help=f"Only those that match; {', '.join(FILTERS)}."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template such as '{{.ID}}'.")
    ] = "",
) -> None:
    """List images, newest first."""
    invocation: Invocation = ctx.obj
    wanted = parse_filters(filters or (), FILTERS)
    dangling = boolean_filter(wanted, "dangling")
    wanted["reference"] = [checked_pattern(name) for name in (*wanted["reference"], *filter(None, [repository]))]
    columns = (*COLUMNS[:2], DIGESTS, *COLUMNS[2:]) if digests else COLUMNS
    listing = Listing(columns, "ID", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    full = no_trunc or format_ == "json"
    execute(_images(invocation, wanted, listing, dangling=dangling, full=full, parts=parts))


async def _images(
    invocation: Invocation,
    wanted: dict[str, list[str]],
    listing: Listing,
    *,
    dangling: bool | None,
    full: bool,
    parts: bool,
) -> int:
    from shoal.gopattern import HAS_WILDCARD
    from shoal.v1 import image_pb2
    from shoalctl.commands.image_rows import image_rows, selects
    from shoalctl.commands.outcome import collected, presented

    references = wanted["reference"]
    # The request takes one reference, and only a dangling that is true; the rest is chosen here.
    one = references[0] if len(references) == 1 and not HAS_WILDCARD.search(references[0]) else ""
    request = image_pb2.ImageServiceListRequest(reference=one, dangling=dangling is True, parts=parts)
    for label in wanted["label"]:
        key, _, value = label.partition("=")
        request.labels.add(key=key, value=value)
    async with invocation.fleet() as fleet:
        results = await collected(fleet.images(request), fleet.names)
    now = datetime.now(UTC)
    return presented(
        listing,
        results,
        lambda host, items: [
            row
            for item in items
            if selects(item, references, dangling)
            for row in image_rows(host, item, now, references=references, full=full, once=listing.quiet)
        ],
    )
