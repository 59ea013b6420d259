"""`shoal host`: the hosts that this client knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.environment import labels
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation
from shoalctl.render import console
from shoalctl.render.listing import Column, Listing

if TYPE_CHECKING:
    from shoalctl.inventory import Inventory

app = verb_app("Manage the hosts that this client knows.")
Texts = list[str] | None

COLUMNS = (
    Column("NAME", "Name"),
    Column("ADDRESS", "Address"),
    Column("DEFAULT", "DefaultMark"),
    Column("GROUPS", "Groups"),
    Column("LABELS", "Labels"),
)


@app.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="host[:port], or unix:///run/shoal/api/shoald.sock.")
    ],
    ca: Annotated[str, typer.Option("--ca", metavar="FILE", help="The fleet's CA certificate.")] = "",
    cert: Annotated[str, typer.Option("--cert", metavar="FILE", help="Your certificate.")] = "",
    key: Annotated[str, typer.Option("--key", metavar="FILE", help="Your private key.")] = "",
    server_name: Annotated[
        str,
        typer.Option("--server-name", metavar="NAME", help="The name in the host's certificate, if not the address."),
    ] = "",
    label: Annotated[Texts, typer.Option("-l", "--label", metavar="KEY=VALUE", help="Label the host.")] = None,
    group: Annotated[Texts, typer.Option("-g", "--group", metavar="GROUP", help="Put it into a group.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a host that is there already.")] = False,
) -> None:
    """Add a host. `shoal host test NAME` then says whether it can be reached."""
    import os

    inventory = _inventory(ctx, new=True)
    for flag, path in (("--ca", ca), ("--cert", cert), ("--key", key)):
        if path and not os.path.exists(os.path.expanduser(path)):
            raise UsageFault(f"{flag}: {path} does not exist", hint="`shoal pki issue user` makes certificates")
    files = {"ca": ca or None, "cert": cert or None, "key": key or None}
    inventory.add_host(name, address, **files, server_name=server_name, labels=labels(label or ()), replace=replace)
    for each in group or ():
        inventory.set_group(each, [*inventory.groups.get(each, ()), name])
    inventory.save()
    if not address.startswith("unix:") and not (ca and cert and key):
        from shoalctl.render.errors import show_warning

        show_warning("a host on the network needs --ca, --cert and --key before it can be asked", name)


@app.command("list")
def list_hosts(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only names.")] = False,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """List the hosts, with the mark of the current default, groups and labels."""
    inventory = _inventory(ctx)
    invocation: Invocation = ctx.obj
    listing = Listing(COLUMNS, "Name", format_, quiet)
    listing.check()
    named = bool(invocation.hosts or invocation.groups or invocation.labels)
    hosts = invocation.selected() if named else inventory.hosts.values()
    defaults = inventory.default
    chosen = {target for target in defaults if not target.startswith("@")}
    chosen |= {n for target in defaults if target.startswith("@") for n in inventory.groups.get(target[1:], ())}
    listing.show(
        [
            {
                "Name": host.name,
                "Address": host.address,
                "Default": host.name in chosen,
                "DefaultMark": "*" if host.name in chosen else "",
                "Groups": ",".join(name for name, members in inventory.groups.items() if host.name in members),
                "Labels": ",".join(f"{key}={value}" for key, value in sorted(host.labels.items())),
                "ServerName": host.server_name,
                "CA": str(host.ca or ""),
                "Certificate": str(host.cert or ""),
                "Key": str(host.key or ""),
            }
            for host in hosts
        ]
    )


app.command("ls", hidden=True)(list_hosts)


@app.command("remove")
def remove(ctx: typer.Context, names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Forget hosts, also in groups and in the default. Nothing changes on the hosts."""
    inventory = _inventory(ctx)
    for name in names:
        inventory.remove_host(name)
    inventory.save()


app.command("rm", hidden=True)(remove)


@app.command("use")
def use(
    ctx: typer.Context,
    targets: Annotated[Texts, typer.Argument(metavar="[NAME|@GROUP...]", help="None: no default.")] = None,
) -> None:
    """Choose the current default: the hosts or groups that a command asks when it names none."""
    inventory = _inventory(ctx)
    inventory.set_default([part for text in targets or () for part in text.split(",") if part])
    inventory.save()


@app.command("group")
def group(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[GROUP]", help="Without it: list the groups.")] = "",
    hosts: Annotated[Texts, typer.Argument(metavar="[HOST...]", help="Its hosts; none: show it.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the group; its hosts stay.")] = False,
) -> None:
    """List the groups, show one, or make one of these hosts."""
    inventory = _inventory(ctx, new=bool(hosts))
    if not hosts and not delete:
        members = {name: tuple(host.name for host in inventory.group(name))} if name else inventory.groups
        for each, names in members.items():
            console.out(f"{each}: {' '.join(names)}")
        return
    if not name or (hosts and delete):
        raise UsageFault("--delete needs one group and no hosts")
    if delete and name not in inventory.groups:
        inventory.group(name)  # raises the error that lists similar names
    inventory.set_group(name, [part for text in hosts or () for part in text.split(",") if part])
    inventory.save()


@app.command("test", cls=HostCommand)
def check(
    ctx: typer.Context,
    names: Annotated[
        Texts, typer.Argument(metavar="[NAME...]", help="Without one: all, or those of -H, -g, -l.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, or a template.")] = "",
) -> None:
    """Connect to the hosts and say how it went: latency, your role there, days that the certificates are good for."""
    invocation: Invocation = ctx.obj
    named = bool(names or invocation.hosts or invocation.groups or invocation.labels)
    invocation = invocation.extended(hosts=names or (), everything=not named)
    from shoalctl.commands.host_test import COLUMNS as TEST_COLUMNS

    listing = Listing(TEST_COLUMNS, "Name", format_)
    listing.check()
    execute(_test(invocation, listing))


async def _test(invocation: Invocation, listing: Listing) -> int:
    from shoalctl.commands.host_test import test_hosts

    return await test_hosts(invocation, listing)


def _inventory(ctx: typer.Context, *, new: bool = False) -> Inventory:
    invocation: Any = ctx.obj
    inventory: Inventory = invocation.inventory(new=new)
    return inventory
