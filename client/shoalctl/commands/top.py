"""`shoal top`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

app = verb_app()


# What follows CONTAINER is for ps, also what looks like a flag.
@app.command(cls=HostCommand, context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def top(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[PS OPTIONS]", help="Such as -o pid,user,args; else -ef.")
    ] = None,
) -> None:
    """List the processes of a running container, with the ps(1) and the process ids of its host."""
    execute(_top(ctx.obj, container, options or []))


async def _top(invocation: Invocation, name: str, options: list[str]) -> int:
    from shoalctl.commands.outcome import collected, report
    from shoalctl.fleet import lifecycle
    from shoalctl.render import console
    from shoalctl.render.table import table

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: lifecycle.top(host, name, options)), fleet.names)
        several = len(fleet.names) > 1
    answers = [(result.host, result.get()) for result in results if result.ok]
    if answers:
        mark = ["HOST"] if several else []
        rows = [([host] if several else []) + row for host, answer in answers for row in _rows(answer)]
        for line in table([*mark, *answers[0][1].titles], rows):
            console.out(line)
    return report(results)


def _rows(answer: container_pb2.ContainerServiceTopResponse) -> list[list[str]]:
    width = len(answer.titles)
    found: list[list[Any]] = [list(process.fields) for process in answer.processes]
    return [[*row, *[""] * (width - len(row))] for row in found]
