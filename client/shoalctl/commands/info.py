"""`shoal info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def info(
    ctx: typer.Context,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="json, or a template.")] = "",
) -> None:
    """Show what the hosts have, how much of it is in use, and what they lack."""
    from shoalctl.render.listing import Listing

    Listing((), "", format_).check()
    execute(_info(ctx.obj, format_))


async def _info(invocation: Invocation, format_: str) -> int:
    from shoalctl.commands.outcome import collected, presented, report
    from shoalctl.render.errors import show_warning
    from shoalctl.render.listing import Listing
    from shoalctl.render.sections import show_sections

    async with invocation.fleet() as fleet:
        results = await collected(fleet.info(), fleet.names)
    if format_:
        return presented(Listing((), "Host", format_), results, lambda host, answer: [_row(host, answer)])
    good = [(result.host, result.get()) for result in results if result.ok]
    show_sections([(f"Host {host}", _shown(_row(host, answer))) for host, answer in good])
    for host, answer in good:
        for warning in answer.warnings:
            show_warning(warning, host)
    return report(results)


def _row(host: str, answer: Any) -> dict[str, Any]:
    platform = answer.platform
    return {
        "Host": host,
        "ID": answer.host_id,
        "Name": answer.hostname,
        "ServerVersion": answer.version,
        "OperatingSystem": answer.operating_system,
        "KernelVersion": answer.kernel_version,
        "Platform": "/".join(filter(None, (platform.os, platform.architecture, platform.variant))),
        "NCPU": answer.cpus,
        "MemTotal": answer.memory_bytes,
        "DataRoot": answer.data_root,
        "DiskFree": answer.disk_free_bytes,
        "DiskTotal": answer.disk_total_bytes,
        "CgroupMode": answer.cgroup_mode,
        "Runtime": answer.runtime,
        "Containers": answer.containers_running + answer.containers_stopped,
        "ContainersRunning": answer.containers_running,
        "ContainersStopped": answer.containers_stopped,
        "Images": answer.images,
        "CallerName": answer.caller_name,
        "CallerRole": answer.caller_role,
        "Warnings": list(answer.warnings),
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    from shoalctl.render.human import binary_size, size

    texts = {key: value for key, value in row.items() if key not in {"Host", "Warnings", "DiskTotal", "Containers"}}
    texts["MemTotal"] = binary_size(row["MemTotal"])
    texts["DiskFree"] = f"{size(row['DiskFree'])} of {size(row['DiskTotal'])}"
    return texts
