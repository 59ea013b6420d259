"""`shoal attach`."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.detach_keys import DEFAULT, parse_detach_keys
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()


@app.command(cls=HostCommand)
def attach(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="What leaves a container with a terminal running.")
    ] = DEFAULT,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Pass no standard input on.")] = False,
    sig_proxy: Annotated[
        bool, typer.Option("--sig-proxy/--no-sig-proxy", help="Pass signals on; else they end only this command.")
    ] = True,
) -> None:
    """Connect to the output and the input of a running container of one host, from now on.

    Several clients may be attached at the same time. The exit code is the container's, or 0 after a detach.
    """
    execute(_attach(ctx.obj, container, parse_detach_keys(detach_keys), stdin=not no_stdin, sig_proxy=sig_proxy))


async def _attach(invocation: Invocation, name: str, keys: bytes, *, stdin: bool, sig_proxy: bool) -> int:
    from shoal.errors import FailedPrecondition, ShoalError
    from shoal.v1 import container_pb2
    from shoalctl import exits
    from shoalctl.commands.foreground import Foreground
    from shoalctl.render.errors import show_error
    from shoalctl.render.terminal import input_is_terminal

    async with invocation.fleet() as fleet:
        if len(fleet.names) != 1:
            raise UsageFault(
                "attach needs a single host", hint="choose one with -H, or follow several with shoal logs -f"
            )
        host = fleet.host(fleet.names[0])
        try:
            details = await host.inspect_container(name)
            if details.container.state != container_pb2.CONTAINER_STATE_RUNNING:
                raise FailedPrecondition(
                    f"container {details.container.name} is not running", reason="NOT_RUNNING", hint="shoal start it"
                )
            spec = details.spec
            stdin = stdin and spec.stdin_open
            if spec.tty and stdin and not input_is_terminal():
                raise UsageFault("the container has a terminal, standard input here is none", hint="use --no-stdin")
            foreground = Foreground(
                host,
                details.container.id,
                stdin=stdin,
                tty=spec.tty and input_is_terminal(),
                keys=keys,
                sig_proxy=sig_proxy,
                cursor="",
            )
            return await foreground.run()
        except UsageFault:
            raise
        except ShoalError as error:
            show_error(error, host.name)
            return exits.FAILED
