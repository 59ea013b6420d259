"""`shoal logs`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.times import parse_time
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def logs(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new output.")] = False,
    tail: Annotated[str, typer.Option("-n", "--tail", metavar="N", help="Only the last N lines.")] = "all",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="From then on: 10m, or a date.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="Up to then: 10m, or a date.")] = "",
    timestamps: Annotated[bool, typer.Option("-t", "--timestamps", help="Show the time of each line.")] = False,
) -> None:
    """Show the output of a container: its stdout on stdout, its stderr on stderr."""
    if tail != "all" and not tail.isdecimal():
        raise UsageFault(f"--tail {tail!r} is not a number")
    now = datetime.now(UTC)
    span = (parse_time(since, now) if since else None, parse_time(until, now) if until else None)
    lines = None if tail == "all" else int(tail)
    execute(_logs(ctx.obj, container, span, lines, follow=follow, timestamps=timestamps))


async def _logs(
    invocation: Invocation,
    container: str,
    span: tuple[datetime | None, datetime | None],
    tail: int | None,
    *,
    follow: bool,
    timestamps: bool,
) -> int:
    from shoal.v1 import container_pb2
    from shoalctl import exits
    from shoalctl.commands.container_rows import stamp
    from shoalctl.render.errors import show_error
    from shoalctl.render.marks import MarkedLines

    request = container_pb2.ContainerServiceLogsRequest(name=container, follow=follow, tail=tail)
    if span[0] is not None:
        request.since.FromDatetime(span[0])
    if span[1] is not None:
        request.until.FromDatetime(span[1])
    async with invocation.fleet() as fleet:
        marks = MarkedLines(fleet.names)
        failed = dict.fromkeys(fleet.names, False)
        inside: set[tuple[str, int]] = set()  # sources in the middle of a line
        async for result in fleet.logs(request):
            if result.error is not None:
                failed[result.host] = True
                show_error(result.error, result.host)
                continue
            record = result.get()
            data = record.data
            source = (result.host, record.stream)
            if timestamps and source not in inside:
                data = stamp(record.time).encode() + b" " + data
            (inside.add if record.partial else inside.discard)(source)
            marks.update(result.host, data, error=record.stream == record.STREAM_STDERR)
        marks.close()
    return exits.combined(failed.values())
