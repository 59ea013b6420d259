"""`shoal events`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.filters import parse_filters
from shoalctl.flags.times import parse_time
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoal.v1 import system_pb2

app = verb_app()

FILTERS = ("type", "event", "container", "image", "volume", "label")


@app.command(cls=HostCommand)
def events(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="Begin with those of then: 10m, a date.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="End then.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option("-f", "--filter", metavar="KEY=VALUE", help=f"Only those that match; {', '.join(FILTERS)}."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="json, or a template.")] = "",
) -> None:
    """Show what happens on the hosts, as it happens."""
    from shoalctl.render.listing import Listing

    wanted = parse_filters(filters or (), FILTERS)
    now = datetime.now(UTC)
    span = (parse_time(since, now) if since else None, parse_time(until, now) if until else None)
    Listing((), "", format_).check()
    execute(_events(ctx.obj, wanted, span, format_))


async def _events(
    invocation: Invocation,
    wanted: dict[str, list[str]],
    span: tuple[datetime | None, datetime | None],
    format_: str,
) -> int:
    from shoalctl import exits
    from shoalctl.render import console
    from shoalctl.render.errors import show_error
    from shoalctl.render.listing import Listing
    from shoalctl.render.marks import MarkedLines

    listing = Listing((), "", format_)
    async with invocation.fleet() as fleet:
        marks = MarkedLines(fleet.names)
        failed = dict.fromkeys(fleet.names, False)
        async for result in fleet.events(_request(wanted, span)):
            if result.error is not None:
                failed[result.host] = True
                show_error(result.error, result.host)
            elif format_:
                listing.show([_row(result.host, result.get())])
                console.flush()
            else:
                marks.line(result.host, _line(result.get()))
    return exits.combined(failed.values())


def _request(
    wanted: dict[str, list[str]], span: tuple[datetime | None, datetime | None]
) -> system_pb2.SystemServiceEventsRequest:
    from shoal.v1 import system_pb2

    request = system_pb2.SystemServiceEventsRequest(
        types=wanted["type"],
        actions=wanted["event"],
        actors=[*wanted["container"], *wanted["image"], *wanted["volume"]],
    )
    if span[0] is not None:
        request.since.FromDatetime(span[0])
    if span[1] is not None:
        request.until.FromDatetime(span[1])
    for label in wanted["label"]:
        key, _, value = label.partition("=")
        request.labels.add(key=key, value=value)
    return request


def _line(event: system_pb2.Event) -> str:
    from shoalctl.commands.container_rows import stamp
    from shoalctl.render.console import printable

    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    return printable(f"{stamp(event.time)} {event.type} {event.action} {event.actor_id} ({attributes})")


def _row(host: str, event: system_pb2.Event) -> dict[str, Any]:
    from shoalctl.render.template import FreeMap

    return {
        "Host": host,
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": FreeMap(sorted(event.attributes.items()))},
        "time": event.time.seconds,
        "timeNano": event.time.ToNanoseconds(),
        "cursor": event.cursor,
    }
