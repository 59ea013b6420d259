"""`shoal run`: create and start a container on the hosts, and follow it unless it is detached."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import execute, verb_app
from shoalctl.commands.isolation_flags import ContainerCommand
from shoalctl.commands.run_flags import parsed
from shoalctl.commands.run_options import RunOptions
from shoalctl.flags.detach_keys import DEFAULT
from shoalctl.invocation import Invocation

app = verb_app()
Texts = list[str] | None


# Everything after IMAGE is the container's command, also what looks like a flag.
@app.command(cls=ContainerCommand, context_settings={"allow_interspersed_args": False, "max_content_width": 110})
def run(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A reference or an image id.")],
    command: Annotated[Texts, typer.Argument(metavar="[COMMAND] [ARG...]", help="Instead of the image's.")] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Print the id and leave it running.")] = False,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="Give the container a terminal.")] = False,
    rm: Annotated[bool, typer.Option("--rm", help="Remove the container when it has exited.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The container's name.")] = "",
    env: Annotated[Texts, typer.Option("-e", "--env", metavar="KEY[=VALUE]", help="Set a variable.")] = None,
    env_file: Annotated[Texts, typer.Option("--env-file", metavar="FILE", help="Variables from a file.")] = None,
    publish: Annotated[
        Texts, typer.Option("-p", "--publish", metavar="[IP:]HOST:PORT", help="Publish a port (on 127.0.0.1).")
    ] = None,
    volume: Annotated[
        Texts, typer.Option("-v", "--volume", metavar="SRC:DST[:ro]", help="Mount /host/path, ./path or a volume.")
    ] = None,
    mount: Annotated[
        Texts, typer.Option("--mount", metavar="type=...,src=...,dst=...", help="Mount; bind, volume or tmpfs.")
    ] = None,
    tmpfs: Annotated[Texts, typer.Option("--tmpfs", metavar="DST[:size=64m]", help="Mount a tmpfs.")] = None,
    config: Annotated[
        Texts, typer.Option("--config", metavar="NAME=FILE[,target=]", help="Mount a file of this machine.")
    ] = None,
    secret: Annotated[
        Texts, typer.Option("--secret", metavar="id=NAME,src=FILE|env=VAR", help="Give a secret, on a tmpfs.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep mounted files of this machine in step.")] = False,
    workdir: Annotated[str, typer.Option("-w", "--workdir", metavar="DIR", help="The working directory.")] = "",
    user: Annotated[str, typer.Option("-u", "--user", metavar="USER[:GROUP]", help="The user, by name or id.")] = "",
    label: Annotated[Texts, typer.Option("-l", "--label", metavar="KEY=VALUE", help="Label the container.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Mount the root file system read-only.")] = False,
    network: Annotated[
        Texts, typer.Option("--network", "--net", metavar="NETWORK", help="A network, host, none or container:NAME.")
    ] = None,
    hostname: Annotated[str, typer.Option("-h", "--hostname", metavar="NAME", help="The host name inside.")] = "",
    entrypoint: Annotated[
        str | None, typer.Option("--entrypoint", metavar="COMMAND", help="Instead of the image's entrypoint.")
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Run an init that reaps and forwards signals.")] = False,
    restart: Annotated[
        str, typer.Option("--restart", metavar="POLICY", help="no, on-failure[:n], always or unless-stopped.")
    ] = "no",
    stop_signal: Annotated[str, typer.Option("--stop-signal", metavar="SIGNAL", help="What stop sends.")] = "",
    stop_timeout: Annotated[
        int | None, typer.Option("--stop-timeout", metavar="SECONDS", help="Grace time of stop; -1: without end.")
    ] = None,
    pull: Annotated[str, typer.Option("--pull", metavar="POLICY", help="missing, always or never.")] = "missing",
    platform: Annotated[str, typer.Option("--platform", metavar="OS/ARCH", help="Instead of the host's own.")] = "",
    userns: Annotated[str, typer.Option("--userns", metavar="MODE", help="host: no user namespace (role admin).")] = "",
    memory: Annotated[str, typer.Option("-m", "--memory", metavar="SIZE", help="Memory limit, such as 512m.")] = "",
    cpus: Annotated[str, typer.Option("--cpus", metavar="N", help="Processor limit, such as 1.5.")] = "",
    pids_limit: Annotated[int, typer.Option("--pids-limit", metavar="N", help="Process limit; -1: none.")] = 0,
    cidfile: Annotated[str, typer.Option("--cidfile", metavar="FILE", help="Write the id to a new file.")] = "",
    creds: Annotated[str, typer.Option("--creds", metavar="USER:PASSWORD", help="For the registry.")] = "",
    log_driver: Annotated[str, typer.Option("--log-driver", metavar="NAME", help="local, journald or none.")] = "",
    log_opt: Annotated[
        Texts, typer.Option("--log-opt", metavar="KEY=VALUE", help="Such as max-size=10m and max-file=3.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress of a pull.")] = False,
    attach: Annotated[
        Texts, typer.Option("-a", "--attach", metavar="STREAM", help="Only stdin, stdout or stderr; else all.")
    ] = None,
    detach_keys: Annotated[
        str, typer.Option("--detach-keys", metavar="KEYS", help="What leaves a container with a terminal running.")
    ] = DEFAULT,
    sig_proxy: Annotated[
        bool, typer.Option("--sig-proxy/--no-sig-proxy", help="Pass signals on; else they end only this command.")
    ] = True,
) -> None:
    """Create and start a container, on each host that is asked.

    On one host the exit code is the container's. Signals go to the container; with -it, ctrl-p ctrl-q detaches.
    """
    execute(_run(ctx.obj, parsed(ctx, dict(locals()))))


async def _run(invocation: Invocation, options: RunOptions) -> int:
    async with invocation.fleet() as fleet:
        # Imported while the connection is being made.
        import shoal.v1.container_pb2_grpc  # noqa: F401
        from shoalctl.commands.running import Running

        return await Running(fleet, options).run()
