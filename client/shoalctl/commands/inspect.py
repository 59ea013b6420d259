"""`shoal inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.errors import NotFound, ShoalError
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoalctl.fleet.host import HostClient

app = verb_app()

Found = tuple[list[dict[str, Any]], list[ShoalError]]


@app.command(cls=HostCommand)
def inspect(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Containers or images.")],
    kind: Annotated[str, typer.Option("--type", metavar="TYPE", help="container or image; else either.")] = "",
    format_: Annotated[
        str, typer.Option("-f", "--format", metavar="FORMAT", help="A template such as '{{.State.Status}}', or json.")
    ] = "",
) -> None:
    """Show all that is known of containers or images: a JSON array in docker's shape, with the host of each."""
    if kind not in {"", "container", "image"}:
        raise UsageFault(f"unknown type {kind!r}", hint="choose container or image")
    if ctx.command.name == "inspect" and ctx.parent is not None and ctx.parent.info_name in {"container", "image"}:
        kind = str(ctx.parent.info_name)
    from shoalctl.render.listing import Listing

    Listing((), "", format_).check()
    execute(_inspect(ctx.obj, names, kind, format_))


async def _inspect(invocation: Invocation, names: list[str], kind: str, format_: str) -> int:
    from shoalctl import exits
    from shoalctl.commands.outcome import collected
    from shoalctl.render import documents
    from shoalctl.render.errors import show_error
    from shoalctl.render.listing import Listing

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: _on_host(host, names, kind)), fleet.names)
    found = [view for result in results if result.ok for view in result.get()[0]]
    if format_:
        Listing((), "", format_).show(found)
    else:
        documents.show(found)
    failed = []
    for result in results:
        errors = [result.error] if result.error is not None else result.get()[1]
        for error in errors:
            show_error(error, result.host)
        failed.append(bool(errors))
    return exits.PARTIAL if found and any(failed) else exits.combined(failed)


async def _on_host(host: HostClient, names: list[str], kind: str) -> Found:
    found: list[dict[str, Any]] = []
    errors: list[ShoalError] = []
    for name in names:
        try:
            found.append(await _one(host, name, kind))
        except NotFound as error:
            errors.append(error)
    return found, errors


async def _one(host: HostClient, name: str, kind: str) -> dict[str, Any]:
    from shoalctl.commands.container_view import container_view
    from shoalctl.commands.image_view import image_view

    if kind != "image":
        try:
            return container_view(host.name, await host.inspect_container(name))
        except NotFound:
            if kind == "container":
                raise
    try:
        return image_view(host.name, await host.inspect_image(name))
    except NotFound as error:
        if kind == "image":
            raise
        raise NotFound(
            f"there is no container and no image {name!r}", reason="NOT_FOUND", hint="see shoal ps -a and shoal images"
        ) from error
