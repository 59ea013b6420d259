"""`shoal version`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def version(
    ctx: typer.Context,
    client: Annotated[bool, typer.Option("--client", help="Only the client's.")] = False,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="json, or a template.")] = "",
) -> None:
    """Show the versions of the client and of the hosts."""
    from shoalctl.render.listing import Listing

    Listing((), "", format_).check()
    own = own_version()
    if client:
        _show(own, [], format_)
        return
    execute(_version(ctx.obj, own, format_))


def own_version() -> dict[str, Any]:
    """The client's version as an object."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        number = installed("shoal")
    except PackageNotFoundError:
        number = "unknown"
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Version": number, "ApiVersion": "v1", "PythonVersion": python, "Os": sys.platform}


async def _version(invocation: Invocation, own: dict[str, Any], format_: str) -> int:
    from shoal.errors import ShoalError
    from shoalctl import exits
    from shoalctl.commands.outcome import collected, error_row, report
    from shoalctl.render.errors import show_error

    try:
        fleet = invocation.fleet()
    except ShoalError as error:
        _show(own, [], format_)
        if error.reason == "NO_TARGET":
            return exits.OK
        show_error(error)
        return exits.FAILED
    async with fleet:
        results = await collected(fleet.version(), fleet.names)
    servers = [
        _server(result.host, result.get()) if result.error is None else error_row(result.host, result.error)
        for result in results
    ]
    try:
        _show(own, servers, format_)
    except UsageFault:
        code = report(results)
        if not any(result.ok for result in results):
            return code  # no host has any field
        raise
    return report(results)


def _server(host: str, answer: Any) -> dict[str, Any]:
    platform = answer.platform
    return {
        "Host": host,
        "Version": answer.version,
        "ApiVersion": answer.api_version,
        "PythonVersion": answer.python_version,
        "KernelVersion": answer.kernel_version,
        "Runtime": answer.runtime,
        "Conmon": answer.conmon,
        "Platform": "/".join(filter(None, (platform.os, platform.architecture, platform.variant))),
    }


def _show(own: dict[str, Any], servers: list[dict[str, Any]], format_: str) -> None:
    from shoalctl.render.listing import Listing
    from shoalctl.render.sections import show_sections

    if format_:
        # A template is for what answered; the others are told of as errors.
        rows = [row for row in servers if format_ == "json" or "Error" not in row] or [{}]
        Listing((), "", format_).show([{"Client": own, "Server": row or None, **row} for row in rows])
        return
    good = [row for row in servers if "Error" not in row]
    show_sections(
        [("Client", own), *((f"Host {row['Host']}", {k: v for k, v in row.items() if k != "Host"}) for row in good)]
    )
