"""`shoal logs`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from shoalctl.commands.command import MOST, HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.times import parse_time
from shoalctl.invocation import Invocation

app = verb_app()
Texts = list[str] | None


@app.command(cls=HostCommand)
def logs(
    ctx: typer.Context,
    containers: Annotated[Texts, typer.Argument(metavar="[CONTAINER...]")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new output.")] = False,
    tail: Annotated[str, typer.Option("-n", "--tail", metavar="N", help="Only the last N lines.")] = "all",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="From then on: 10m, or a date.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="Up to then: 10m, or a date.")] = "",
    timestamps: Annotated[bool, typer.Option("-t", "--timestamps", help="Show the time of each line.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Show what the log options labels and env name, too.")
    ] = False,
    label: Annotated[
        Texts, typer.Option("-l", "--label", metavar="KEY[=VALUE]", help="Of all containers with this label.")
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only standard output.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only standard error.")] = False,
    grep: Annotated[str, typer.Option("--grep", metavar="PATTERN", help="Only lines that hold this text.")] = "",
    regex: Annotated[bool, typer.Option("-E", "--regex", help="PATTERN is a regular expression (RE2's).")] = False,
    invert: Annotated[bool, typer.Option("-v", "--invert", help="Only lines that do not match.")] = False,
    ignore_case: Annotated[bool, typer.Option("-i", "--ignore-case", help="Match in upper and lower case.")] = False,
) -> None:
    """Show the output of containers: their stdout on stdout, their stderr on stderr.

    Lines of several containers and hosts are merged in the order of their time. Hosts search (--grep) on their side.
    """
    lines = _tail(tail)
    if not containers and not label:
        raise UsageFault("name a container, or choose some with --label")
    if not grep and (regex or invert or ignore_case):
        raise UsageFault("-E, -v and -i need --grep")
    now = datetime.now(UTC)
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceLogsRequest(
        follow=follow,
        tail=lines,
        grep=grep,
        grep_regex=regex,
        grep_invert=invert,
        grep_ignore_case=ignore_case,
    )
    if since:
        request.since.FromDatetime(parse_time(since, now))
    if until:
        request.until.FromDatetime(parse_time(until, now))
    if stdout != stderr:
        stream = container_pb2.LogRecord
        request.streams.append(stream.STREAM_STDOUT if stdout else stream.STREAM_STDERR)
    execute(_logs(ctx.obj, containers or [], label or [], request, timestamps=timestamps, details=details))


def _tail(text: str) -> int | None:
    """How many lines; None: all of them, which is also what docker takes a negative number for. Raises UsageFault."""
    found = re.fullmatch(r"(-?)0*(\d+)", text, re.ASCII)
    if text != "all" and found is None:
        raise UsageFault(f"--tail {text[:80]!r} is not a number", hint="write a number of lines, or all")
    # No log has more lines than a message has room for.
    if found is None or found[1] or len(found[2]) > len(str(MOST)):
        return None
    return int(found[2]) if int(found[2]) <= MOST else None


async def _logs(
    invocation: Invocation,
    names: list[str],
    labels: list[str],
    request: object,
    *,
    timestamps: bool,
    details: bool,
) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.reading import Reading

        return await Reading(fleet, request, timestamps=timestamps, details=details).run(names, labels)  # type: ignore[arg-type]
