"""`shoal exec`: one more process in a running container."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags import environment
from shoalctl.flags.detach_keys import DEFAULT, parse_detach_keys
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

app = verb_app()
Texts = list[str] | None


# Everything after CONTAINER is the command, also what looks like a flag.
@app.command(cls=HostCommand, context_settings={"allow_interspersed_args": False, "max_content_width": 110})
def exec_(
    ctx: typer.Context,
    container: Annotated[str, typer.Argument(metavar="CONTAINER")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG...]")],
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Leave it running and show nothing of it.")] = False,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="What leaves a terminal's process running.")
    ] = DEFAULT,
    env: Annotated[Texts, typer.Option("-e", "--env", metavar="KEY[=VALUE]", help="Set a variable.")] = None,
    env_file: Annotated[Texts, typer.Option("--env-file", metavar="FILE", help="Variables from a file.")] = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Pass standard input on.")] = False,
    on_disconnect: Annotated[
        str, typer.Option("--on-disconnect", metavar="kill|detach", help="When the link is cut for over 10 s.")
    ] = "kill",
    privileged: Annotated[bool, typer.Option("--privileged", help="All capabilities (role admin).")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="Give it a terminal.")] = False,
    user: Annotated[str, typer.Option("-u", "--user", metavar="USER[:GROUP]", help="The user, by name or id.")] = "",
    workdir: Annotated[str, typer.Option("-w", "--workdir", metavar="DIR", help="The working directory.")] = "",
) -> None:
    """Run a command in a running container, on each host that is asked.

    The exit code is the command's (126: it can't be executed, 127: it was not found); of several hosts, the highest.
    """
    if on_disconnect not in {"kill", "detach"}:
        raise UsageFault(f"--on-disconnect {on_disconnect!r} is unknown", hint="choose kill or detach")
    if not container or not command[0]:
        raise UsageFault("the container's name or the command is empty")
    if tty and interactive and not detach:
        from shoalctl.render.terminal import input_is_terminal

        if not input_is_terminal():
            raise UsageFault("-t with -i needs a terminal as standard input", hint="leave out -t for a pipe")
    order = {
        "name": container,
        "command": command,
        "env": environment.environment(env or (), env_file or (), os.environ),
        "working_dir": workdir,
        "user": user,
        "tty": tty,
        "stdin_open": interactive and not detach,
        "privileged": privileged,
        "detach": detach,
        "on_disconnect": 2 if on_disconnect == "detach" else 1,
    }
    execute(_exec(ctx.obj, order, parse_detach_keys(detach_keys)))


async def _exec(invocation: Invocation, order: dict[str, object], keys: bytes) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.executing import Executing

        return await Executing(fleet, order, keys).run()
