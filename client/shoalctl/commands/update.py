"""`shoal update`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags import process, sizes
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def update(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    memory: Annotated[str, typer.Option("-m", "--memory", metavar="SIZE", help="Memory limit; -1: none.")] = "",
    memory_swap: Annotated[
        str, typer.Option("--memory-swap", metavar="SIZE", help="Memory and swap together; -1: no limit.")
    ] = "",
    memory_reservation: Annotated[
        str, typer.Option("--memory-reservation", metavar="SIZE", help="A soft memory limit; -1: none.")
    ] = "",
    cpus: Annotated[str, typer.Option("--cpus", metavar="N", help="Processor limit, such as 1.5; -1: none.")] = "",
    cpu_shares: Annotated[
        int | None, typer.Option("-c", "--cpu-shares", metavar="N", help="Relative weight (1024).")
    ] = None,
    cpu_period: Annotated[
        int | None, typer.Option("--cpu-period", metavar="US", help="Of the quota, microseconds.")
    ] = None,
    cpu_quota: Annotated[
        int | None, typer.Option("--cpu-quota", metavar="US", help="Microseconds in a period; -1: no limit.")
    ] = None,
    cpuset_cpus: Annotated[
        str | None, typer.Option("--cpuset-cpus", metavar="LIST", help="Processors, such as 0-2,4; empty: all.")
    ] = None,
    cpuset_mems: Annotated[
        str | None, typer.Option("--cpuset-mems", metavar="LIST", help="Memory nodes; empty: all.")
    ] = None,
    pids_limit: Annotated[
        int | None, typer.Option("--pids-limit", metavar="N", help="Process limit; -1: none.")
    ] = None,
    blkio_weight: Annotated[
        int | None, typer.Option("--blkio-weight", metavar="N", help="10 to 1000; 0: the host's.")
    ] = None,
    restart: Annotated[
        str, typer.Option("--restart", metavar="POLICY", help="no, on-failure[:n], always or unless-stopped.")
    ] = "",
) -> None:
    """Change limits, at once if a container runs, and the restart policy. All of it or nothing."""
    if blkio_weight is not None and blkio_weight < 0:
        raise UsageFault("--blkio-weight can't be negative")
    given: dict[str, Any] = {
        "memory_bytes": _size(memory),
        "memory_swap_bytes": _size(memory_swap),
        "memory_reservation_bytes": _size(memory_reservation),
        "nano_cpus": None if not cpus else -1 if cpus == "-1" else sizes.parse_cpus(cpus),
        "cpu_shares": cpu_shares,
        "cpu_period": cpu_period,
        "cpu_quota": cpu_quota,
        "cpuset_cpus": cpuset_cpus,
        "cpuset_mems": cpuset_mems,
        "pids_limit": pids_limit,
        "blkio_weight": blkio_weight,
    }
    given = {name: value for name, value in given.items() if value is not None}
    policy = process.parse_restart(restart) if restart else None
    if not given and policy is None:
        raise UsageFault("nothing to change", hint="name a limit or --restart; see shoal update --help")
    execute(_update(ctx.obj, containers, given, policy))


def _size(text: str) -> int | None:
    if not text:
        return None
    return -1 if text == "-1" else sizes.parse_size(text)


async def _update(
    invocation: Invocation, containers: list[str], given: dict[str, Any], policy: process.Restart | None
) -> int:
    from shoal.v1 import container_pb2
    from shoalctl.commands.batch import batch
    from shoalctl.commands.messages import restart_message
    from shoalctl.fleet import lifecycle
    from shoalctl.fleet.host import HostClient
    from shoalctl.render.errors import show_warning

    async def work(host: HostClient, name: str) -> list[str]:
        request = container_pb2.ContainerServiceUpdateRequest(name=name, **given)
        if policy is not None:
            request.restart_policy.CopyFrom(restart_message(policy))
        for warning in (await lifecycle.update(host, request)).warnings:
            show_warning(warning, host.name)
        return [name]

    return await batch(invocation, containers, work)
