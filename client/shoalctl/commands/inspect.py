"""`shoal inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.errors import NotFound, ShoalError
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
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
    sizes: Annotated[
        bool, typer.Option("-s", "--size", help="Also SizeRw and SizeRootFs: what a container has written, and all.")
    ] = False,
) -> None:
    """Show all that is known of containers or images: a JSON array in docker's shape, with the host of each."""
    if kind not in {"", "container", "image"}:
        raise UsageFault(f"unknown type {kind!r}", hint="choose container or image")
    if ctx.command.name == "inspect" and ctx.parent is not None and ctx.parent.info_name in {"container", "image"}:
        kind = str(ctx.parent.info_name)
    from shoalctl.render.listing import Listing

    Listing((), "", format_).check()
    execute(_inspect(ctx.obj, names, kind, format_, sizes=sizes))


async def _inspect(invocation: Invocation, names: list[str], kind: str, format_: str, *, sizes: bool) -> int:
    from shoalctl.commands.outcome import collected, inspected

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: _on_host(host, names, kind, sizes=sizes)), fleet.names)
    return inspected(results, format_)


async def _on_host(host: HostClient, names: list[str], kind: str, *, sizes: bool) -> Found:
    found: list[dict[str, Any]] = []
    errors: list[ShoalError] = []
    for name in names:
        try:
            found.append(await _one(host, name, kind, sizes=sizes))
        except NotFound as error:
            errors.append(error)
    return found, errors


async def _one(host: HostClient, name: str, kind: str, *, sizes: bool) -> dict[str, Any]:
    from shoalctl.commands.container_view import container_view
    from shoalctl.commands.image_view import image_view

    if kind != "image":
        try:
            details = await host.inspect_container(name)
            measured = await _sizes(host, details.container) if sizes else {}
            return {**container_view(host.name, details), **measured}
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


async def _sizes(host: HostClient, container: container_pb2.Container) -> dict[str, int]:
    """Bytes of the writable layer, and of the whole root file system; the latter only while the image is there."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceListRequest(all=True, sizes=True, name=container.name)
    written = next((each.size_bytes for each in await host.containers(request) if each.id == container.id), 0)
    try:
        image = (await host.inspect_image(container.image_id)).image.size_bytes
    except NotFound:
        return {"SizeRw": written}
    return {"SizeRw": written, "SizeRootFs": written + image}
