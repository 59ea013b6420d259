"""`shoal network create|ls|inspect|rm|prune|connect|disconnect`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.confirm import confirm
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation
from shoalctl.render.listing import Column, Listing

app = verb_app("Manage networks of containers.")

Texts = list[str] | None
COLUMNS = (Column("NETWORK ID", "ID"), Column("NAME", "Name"), Column("DRIVER", "Driver"), Column("SCOPE", "Scope"))
FILTERS = ("driver", "id", "label", "name", "scope", "type")
_PREDEFINED = ("bridge", "host", "none")


@app.command("create", cls=HostCommand)
def create(
    ctx: typer.Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="Its name.")],
    driver: Annotated[str, typer.Option("-d", "--driver", metavar="DRIVER", help="There is only bridge.")] = "bridge",
    subnet: Annotated[Texts, typer.Option("--subnet", metavar="CIDR", help="Else a free one is chosen.")] = None,
    gateway: Annotated[Texts, typer.Option("--gateway", metavar="ADDRESS", help="The host's own address.")] = None,
    ip_range: Annotated[str, typer.Option("--ip-range", metavar="CIDR", help="Choose addresses from this part.")] = "",
    internal: Annotated[bool, typer.Option("--internal", help="No way out, no names of outside.")] = False,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="IPv6 addresses too.")] = False,
    label: Annotated[Texts, typer.Option("--label", metavar="KEY=VALUE", help="Label it.")] = None,
    opt: Annotated[Texts, typer.Option("-o", "--opt", metavar="KEY=VALUE", help="mtu=, icc= or isolate=.")] = None,
) -> None:
    """Make a network and print its id."""
    from shoalctl.flags.environment import labels

    if driver != "bridge":
        raise UsageFault(f"there is no network driver {driver!r}, only bridge")
    fields: dict[str, object] = {
        "name": network,
        "subnets": subnet or (),
        "gateways": gateway or (),
        "ip_range": ip_range,
        "internal": internal,
        "ipv6": ipv6,
        "labels": labels(label or ()),
        "options": _options(opt or ()),
    }
    execute(_create(ctx.obj, fields))


@app.command("ls", cls=HostCommand)
def list_networks(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only ids.")] = False,
    filter_: Annotated[
        Texts, typer.Option("-f", "--filter", metavar="KEY=VALUE", help="driver, id, label, name, scope or type.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show whole ids.")] = False,
) -> None:
    """List networks by name."""
    from shoalctl.flags.filters import parse_filters

    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "ID", format_, quiet, several=len(invocation.selected()) > 1)
    listing.check()
    filters = parse_filters(filter_ or (), FILTERS)
    if any(value not in ("custom", "builtin") for value in filters["type"]):
        raise UsageFault("the filter type is custom or builtin")
    execute(_list(invocation, listing, filters, whole=no_trunc))


@app.command("inspect", cls=HostCommand)
def inspect(
    ctx: typer.Context,
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...")],
    format_: Annotated[str, typer.Option("-f", "--format", metavar="FORMAT", help="A template, or json.")] = "",
) -> None:
    """Show all that is known of networks and who is in them: a JSON array in docker's shape."""
    Listing((), "", format_).check()
    execute(_inspect(ctx.obj, networks, format_))


@app.command("rm", cls=HostCommand)
def remove(
    ctx: typer.Context,
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...")],
    force: Annotated[bool, typer.Option("-f", "--force", help="A missing one is no error.")] = False,
) -> None:
    """Delete networks that no container names."""
    execute(_remove(ctx.obj, networks, force=force))


@app.command("prune", cls=HostCommand)
def prune(
    ctx: typer.Context,
    force: Annotated[bool, typer.Option("-f", "--force", help="Do not ask.")] = False,
    filter_: Annotated[
        Texts, typer.Option("--filter", metavar="label=KEY[=VALUE]", help="Only those with this label.")
    ] = None,
) -> None:
    """Delete all networks that no container names."""
    from shoalctl.flags.filters import parse_filters

    labels = _pairs(parse_filters(filter_ or (), ("label",))["label"])
    if not force:
        confirm("all networks that no container names")
    execute(_prune(ctx.obj, labels))


@app.command("connect", cls=HostCommand)
def connect(
    ctx: typer.Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK")],
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    ip: Annotated[str, typer.Option("--ip", metavar="ADDRESS", help="Its IPv4 address there.")] = "",
    ip6: Annotated[str, typer.Option("--ip6", metavar="ADDRESS", help="Its IPv6 address there.")] = "",
    alias: Annotated[Texts, typer.Option("--alias", metavar="NAME", help="One more name there.")] = None,
) -> None:
    """Put a container into one more network, at once if it runs."""
    execute(_connect(ctx.obj, network, container, {"ip_address": ip, "ip6_address": ip6, "aliases": alias or ()}))


@app.command("disconnect", cls=HostCommand)
def disconnect(
    ctx: typer.Context,
    network: Annotated[str, typer.Argument(metavar="NETWORK")],
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    force: Annotated[bool, typer.Option("-f", "--force", help="Also when it is not there.")] = False,
) -> None:
    """Take a container out of a network."""
    execute(_disconnect(ctx.obj, network, container, force=force))


app.command("list", cls=HostCommand, hidden=True)(list_networks)
app.command("remove", cls=HostCommand, hidden=True)(remove)


def _options(entries: list[str] | tuple[()]) -> dict[str, str]:
    options: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise UsageFault(f"invalid option {entry!r}", hint="write mtu=1400, icc=false or isolate=false")
        options[key] = value
    return options


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (text.partition("=") for text in texts)]


async def _create(invocation: Invocation, fields: dict[str, object]) -> int:
    from shoal.v1 import network_pb2
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.networks import create_network
    from shoalctl.render.errors import show_warning

    async def work(host: HostClient, name: str) -> list[str]:
        answer = await create_network(host, network_pb2.NetworkServiceCreateRequest(**fields))  # type: ignore[arg-type]
        for warning in answer.warnings:
            show_warning(warning, host.name)
        return [answer.network.id]

    return await batch(invocation, [str(fields["name"])], work)


async def _list(invocation: Invocation, listing: Listing, filters: dict[str, list[str]], *, whole: bool) -> int:
    from shoalctl.commands.container_rows import label_text, moment
    from shoalctl.commands.outcome import collected, presented
    from shoalctl.fleet.networks import list_networks as listed

    labels = _pairs(filters["label"])
    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: listed(host, labels)), fleet.names)

    def wanted(name: str, network_id: str, driver: str) -> bool:
        kind = "builtin" if name in _PREDEFINED else "custom"
        return all(
            not texts or any(matches(text) for text in texts)
            for texts, matches in (
                (filters["name"], lambda text: text in name),
                (filters["id"], network_id.startswith),
                (filters["driver"], driver.__eq__),
                (filters["scope"], "local".__eq__),
                (filters["type"], kind.__eq__),
            )
        )

    return presented(
        listing,
        results,
        lambda host, items: [
            {
                "Host": host,
                "ID": item.id if whole else item.id[:12],
                "Name": item.name,
                "Driver": item.driver,
                "Scope": "local",
                "IPv6": item.ipv6,
                "Internal": item.internal,
                "Subnets": ",".join(item.subnets),
                "CreatedAt": moment(item.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                "Labels": label_text(item.labels),
            }
            for item in items
            if wanted(item.name, item.id, item.driver)
        ],
    )


async def _inspect(invocation: Invocation, names: list[str], format_: str) -> int:
    from typing import Any

    from shoal.errors import NotFound, ShoalError
    from shoalctl.commands.network_view import network_view
    from shoalctl.commands.outcome import collected, inspected
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.networks import inspect_network

    async def work(host: HostClient) -> tuple[list[dict[str, Any]], list[ShoalError]]:
        views: list[dict[str, Any]] = []
        missing: list[ShoalError] = []
        for name in names:
            try:
                views.append(network_view(host.name, await inspect_network(host, name)))
            except NotFound as error:
                missing.append(error)
        return views, missing

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(work), fleet.names)
    return inspected(results, format_)


async def _remove(invocation: Invocation, networks: list[str], *, force: bool) -> int:
    from shoal.errors import NotFound
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.networks import remove_network

    async def work(host: HostClient, name: str) -> list[str]:
        try:
            await remove_network(host, name)
        except NotFound:
            if not force:
                raise
            return []
        return [name]

    return await batch(invocation, networks, work)


async def _prune(invocation: Invocation, labels: list[tuple[str, str]]) -> int:
    from shoalctl.commands.outcome import collected, report
    from shoalctl.fleet.networks import prune_networks
    from shoalctl.render.marks import MarkedLines

    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(lambda host: prune_networks(host, labels)), fleet.names)
        marks = MarkedLines(fleet.names)
    for result in results:
        if result.ok:
            for name in result.get():
                marks.line(result.host, name)
    marks.close()
    return report(results)


async def _connect(invocation: Invocation, network: str, container: str, fields: dict[str, object]) -> int:
    from shoal.v1 import network_pb2
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.networks import connect_network

    async def work(host: HostClient, name: str) -> list[str]:
        request = network_pb2.NetworkServiceConnectRequest(network=network, container=name, **fields)  # type: ignore[arg-type]
        await connect_network(host, request)
        return []

    return await batch(invocation, [container], work)


async def _disconnect(invocation: Invocation, network: str, container: str, *, force: bool) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.networks import disconnect_network

    async def work(host: HostClient, name: str) -> list[str]:
        await disconnect_network(host, network, name, force=force)
        return []

    return await batch(invocation, [container], work)
