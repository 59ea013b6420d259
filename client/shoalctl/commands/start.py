"""`shoal start`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.detach_keys import DEFAULT, parse_detach_keys
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoalctl.flags.secrets import SecretFlag
    from shoalctl.fleet.host import HostClient

app = verb_app()


@app.command(cls=HostCommand)
def start(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="id=NAME,src=FILE|env=VAR", help="Give a secret again, after a reboot."),
    ] = None,
    attach: Annotated[bool, typer.Option("-a", "--attach", help="Follow it: output, signals, exit code.")] = False,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Pass input on; implies -a.")] = False,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="What leaves a container with a terminal running.")
    ] = DEFAULT,
) -> None:
    """Start stopped containers. A running one is a success. With -a or -i: one, on a single host."""
    secrets: list[SecretFlag] = []
    if secret:
        from shoalctl.flags.secrets import parse_secret

        secrets = [parse_secret(text, os.environ) for text in secret]
    if attach or interactive:
        if len(containers) != 1:
            raise UsageFault("-a and -i go with a single container")
        keys = parse_detach_keys(detach_keys)
        execute(_start_attached(ctx.obj, containers[0], secrets, keys, stdin=interactive))
    execute(_start(ctx.obj, containers, secrets))


async def _start(invocation: Invocation, containers: list[str], secrets: Sequence[SecretFlag]) -> int:
    from shoalctl.commands.batch import batch

    async def work(host: HostClient, name: str) -> list[str]:
        await _give(host, name, secrets)
        await host.start(name)
        return [name]

    return await batch(invocation, containers, work)


async def _give(host: HostClient, name: str, secrets: Sequence[SecretFlag]) -> None:
    if secrets:
        from shoalctl.fleet.sending import put_secret

        for each in secrets:
            await put_secret(host, each.value, each.mode, container=name, target=each.target)


async def _start_attached(
    invocation: Invocation, name: str, secrets: Sequence[SecretFlag], keys: bytes, *, stdin: bool
) -> int:
    """Nothing of the output is lost: it is followed from where this run began."""
    from shoal.errors import ShoalError
    from shoalctl import exits
    from shoalctl.commands.foreground import Foreground
    from shoalctl.render.errors import show_error
    from shoalctl.render.terminal import input_is_terminal

    async with invocation.fleet() as fleet:
        if len(fleet.names) != 1:
            raise UsageFault("-a and -i need a single host", hint="choose one with -H")
        host = fleet.host(fleet.names[0])
        try:
            spec = (await host.inspect_container(name)).spec
            if stdin and spec.stdin_open and spec.tty and not input_is_terminal():
                raise UsageFault("the container has a terminal, standard input here is none", hint="leave out -i")
            await _give(host, name, secrets)
            started = await host.start(name)
            tty = spec.tty and input_is_terminal()
            return await Foreground(host, started.id, stdin=stdin and spec.stdin_open, tty=tty, keys=keys).run()
        except UsageFault:
            raise
        except ShoalError as error:
            show_error(error, host.name)
            return exits.for_run(error.reason)
