"""`shoal start`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoalctl.flags.secrets import SecretFlag

app = verb_app()


@app.command(cls=HostCommand)
def start(
    ctx: typer.Context,
    containers: Annotated[list[str], typer.Argument(metavar="CONTAINER...")],
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="id=NAME,src=FILE|env=VAR", help="Give a secret again, after a reboot."),
    ] = None,
) -> None:
    """Start stopped containers. A running one is a success."""
    secrets: list[SecretFlag] = []
    if secret:
        from shoalctl.flags.secrets import parse_secret

        secrets = [parse_secret(text, os.environ) for text in secret]
    execute(_start(ctx.obj, containers, secrets))


async def _start(invocation: Invocation, containers: list[str], secrets: Sequence[SecretFlag]) -> int:
    from shoalctl.commands.batch import batch
    from shoalctl.fleet.host import HostClient

    async def work(host: HostClient, name: str) -> list[str]:
        if secrets:
            from shoalctl.fleet.sending import put_secret

            for each in secrets:
                await put_secret(host, each.value, each.mode, container=name, target=each.target)
        await host.start(name)
        return [name]

    return await batch(invocation, containers, work)
