"""`shoal build`: an image from a Dockerfile, on each host that is asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

import typer

from shoalctl.commands.build_options import BuildOptions
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.credentials import given
from shoalctl.flags import environment, images
from shoalctl.flags.build_cache import parse_cache_from, parse_cache_to
from shoalctl.flags.build_contexts import build_contexts
from shoalctl.flags.build_output import parse_output
from shoalctl.flags.choices import check_progress
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.secrets import parse_build_secret
from shoalctl.flags.ssh_agents import ssh_agents
from shoalctl.invocation import Invocation

app = verb_app()
Texts = list[str] | None
_RIGHTS = ("network.host", "security.insecure", "device")


@app.command(cls=HostCommand)
def build(
    ctx: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="PATH|URL|-", help="A directory, a git repository, or - (see the manual).")
    ],
    file: Annotated[str, typer.Option("-f", "--file", metavar="FILE", help="The Dockerfile; - is stdin.")] = "",
    tag: Annotated[Texts, typer.Option("-t", "--tag", metavar="NAME[:TAG]", help="A name for the result.")] = None,
    build_arg: Annotated[Texts, typer.Option("--build-arg", metavar="KEY[=VALUE]", help="Set an ARG.")] = None,
    target: Annotated[str, typer.Option("--target", metavar="STAGE", help="The stage to build.")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Pull base images even if they are there.")] = False,
    label: Annotated[Texts, typer.Option("--label", metavar="KEY=VALUE", help="Label the result.")] = None,
    platform: Annotated[str, typer.Option("--platform", metavar="OS/ARCH", help="Instead of the host's own.")] = "",
    network: Annotated[
        str, typer.Option("--network", metavar="NETWORK", help="For RUN: bridge, none, host or a name.")
    ] = "",
    progress: Annotated[
        str, typer.Option("--progress", metavar="HOW", help="auto, plain, tty, quiet or json.")
    ] = "auto",
    ssh: Annotated[
        Texts, typer.Option("--ssh", metavar="default|ID[=SOCKET]", help="Lend an ssh agent to RUN --mount=type=ssh.")
    ] = None,
    add_host: Annotated[Texts, typer.Option("--add-host", metavar="NAME:IP", help="In /etc/hosts of RUN.")] = None,
    push: Annotated[bool, typer.Option("--push", help="As -o type=registry: push the result.")] = False,
    load: Annotated[bool, typer.Option("--load", hidden=True, help="Always so: images stay on the hosts.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it to the hosts; print ids for `build attach` and `cancel`.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Build on one of the hosts (of each platform): the one with most of it.")
    ] = False,
    distribute: Annotated[
        bool, typer.Option("--distribute", help="As --once; then bring the result to the other hosts.")
    ] = False,
    allow: Annotated[
        Texts, typer.Option("--allow", metavar="RIGHT", help="network.host, security.insecure or device (role admin).")
    ] = None,
    rewrite_timestamp: Annotated[
        bool, typer.Option("--rewrite-timestamp", help="No file is later than SOURCE_DATE_EPOCH.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Open a shell in the state before a RUN that fails.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only the image's id.")] = False,
    iidfile: Annotated[str, typer.Option("--iidfile", metavar="FILE", help="Write the image's id to a file.")] = "",
    secret: Annotated[
        Texts, typer.Option("--secret", metavar="id=NAME,src=FILE", help="For RUN --mount=type=secret; also env=VAR.")
    ] = None,
    build_context: Annotated[
        Texts,
        typer.Option("--build-context", metavar="NAME=DIR", help="One more context; also docker-image://IMAGE."),
    ] = None,
    cache_from: Annotated[
        Texts, typer.Option("--cache-from", metavar="IMAGE", help="Start with a cache of a registry.")
    ] = None,
    cache_to: Annotated[
        Texts, typer.Option("--cache-to", metavar="IMAGE|type=inline", help="Write the cache; also ref=...,mode=max.")
    ] = None,
    output: Annotated[
        Texts,
        typer.Option("-o", "--output", metavar="DEST", help="A directory, or type=local|tar|oci|docker|image,dest=..."),
    ] = None,
    creds: Annotated[str, typer.Option("--creds", metavar="USER:PASSWORD", help="For the base image's registry.")] = "",
) -> None:
    """Build an image from a Dockerfile. The image's id goes to standard output, the course to standard error.

    `build list`, `attach`, `logs` and `cancel` are those of `shoal builder`; a directory of such a name is ./list.
    """
    check_progress(progress)
    if ":" in network:
        raise UsageFault(
            f"--network {network!r}: a build joins no container",
            hint="choose bridge, none, host or the name of a network",
        )
    arguments = dict(pair.split("=", 1) for pair in environment.environment(build_arg or (), (), os.environ))
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        arguments.setdefault("SOURCE_DATE_EPOCH", epoch)
    outputs = [parse_output(text) for text in (*(output or ()), *(["type=registry"] if push else []))]
    rewriting = rewrite_timestamp or any(each.rewrite_times for each in outputs)
    if rewriting and "SOURCE_DATE_EPOCH" not in arguments:
        raise UsageFault("--rewrite-timestamp needs SOURCE_DATE_EPOCH", hint="set it in the environment: seconds")
    options = BuildOptions(
        path=path,
        file=file,
        tags=[images.checked_reference(name) for name in tag or ()],
        build_args=arguments,
        target=target,
        no_cache=no_cache,
        pull=pull,
        labels=environment.labels(label or ()),
        platform=images.checked_platform(platform),
        network="" if network == "default" else network,
        progress="quiet" if quiet else progress,
        iidfile=iidfile,
        creds=given(creds),
        secrets=dict(parse_build_secret(text, os.environ) for text in secret or ()),
        contexts=build_contexts(build_context or ()),
        outputs=outputs,
        cache_from=[parse_cache_from(text) for text in cache_from or ()],
        cache_to=[parse_cache_to(text) for text in cache_to or ()],
        extra_hosts=list(add_host or ()),
        detach=detach,
        rewrite_times=rewriting,
        allow=_rights(allow or ()),
        debug=debug,
        once=once or distribute,
        distribute=distribute,
        ssh=ssh_agents(ssh or (), os.environ),
    )
    options.check()
    execute(_build(ctx.obj, options))


def _rights(allowed: Iterable[str]) -> list[str]:
    rights = [right for text in allowed for right in text.split(",")]
    for right in rights:
        if right not in _RIGHTS:
            raise UsageFault(f"--allow {right!r} is unknown", hint=f"choose {', '.join(_RIGHTS)}")
    return rights


async def _build(invocation: Invocation, options: BuildOptions) -> int:
    from shoalctl.commands.building import Building

    async with invocation.fleet() as fleet:
        return await Building(fleet, options).run()
