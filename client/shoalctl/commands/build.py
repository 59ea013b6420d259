"""`shoal build`: an image from a Dockerfile, on each host that is asked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from shoalctl.commands.build_options import BuildOptions
from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.commands.credentials import given
from shoalctl.flags import environment, images
from shoalctl.flags.attestations import parse_attestations, with_switches
from shoalctl.flags.build_cache import CacheTarget, LocalCache, LocalTarget, parse_cache_from, parse_cache_to
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


class BuildCommand(HostCommand):
    """Takes `--sbom` and `--provenance` without a value, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_switches(args))


@app.command(cls=BuildCommand)
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
    platform: Annotated[
        Texts, typer.Option("--platform", metavar="OS/ARCH", help="Instead of the host's own; several make an index.")
    ] = None,
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
        bool | None,
        typer.Option(
            "--once/--each", help="Build on one of the hosts (of each platform), the one with most of it; or on each."
        ),
    ] = None,
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
        Texts, typer.Option("--cache-from", metavar="IMAGE", help="Start with a cache; also type=local,src=DIR.")
    ] = None,
    cache_to: Annotated[
        Texts,
        typer.Option("--cache-to", metavar="IMAGE|type=inline", help="Write the cache; also type=local,dest=DIR."),
    ] = None,
    output: Annotated[
        Texts,
        typer.Option("-o", "--output", metavar="DEST", help="A directory, or type=local|tar|oci|docker|image,dest=..."),
    ] = None,
    creds: Annotated[str, typer.Option("--creds", metavar="USER:PASSWORD", help="For the base image's registry.")] = "",
    sbom: Annotated[
        str, typer.Option("--sbom", metavar="true|false", help="List the packages beside the image (SPDX).")
    ] = "",
    provenance: Annotated[
        str,
        typer.Option("--provenance", metavar="true|mode=max,...", help="Say beside the image how it was made (SLSA)."),
    ] = "",
    attest: Annotated[
        Texts, typer.Option("--attest", metavar="type=...", help="type=sbom or type=provenance,mode=max,version=v1.")
    ] = None,
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
    caches = [parse_cache_from(text) for text in cache_from or ()]
    targets = [parse_cache_to(text) for text in cache_to or ()]
    options = BuildOptions(
        path=path,
        file=file,
        tags=[images.checked_reference(name) for name in tag or ()],
        build_args=arguments,
        target=target,
        no_cache=no_cache,
        pull=pull,
        labels=environment.labels(label or ()),
        platforms=images.checked_platforms(platform or ()),
        network="" if network == "default" else network,
        progress="quiet" if quiet else progress,
        iidfile=iidfile,
        creds=given(creds),
        secrets=dict(parse_build_secret(text, os.environ) for text in secret or ()),
        contexts=build_contexts(build_context or ()),
        outputs=outputs,
        cache_from=[each for each in caches if isinstance(each, str)],
        cache_to=[each for each in targets if isinstance(each, CacheTarget)],
        local_caches=[each for each in caches if isinstance(each, LocalCache)],
        local_targets=[each for each in targets if isinstance(each, LocalTarget)],
        extra_hosts=list(add_host or ()),
        detach=detach,
        rewrite_times=rewriting,
        allow=_rights(allow or ()),
        debug=debug,
        once=_once(ctx.obj, once, distribute=distribute),
        distribute=distribute,
        ssh=ssh_agents(ssh or (), os.environ),
        attestations=parse_attestations(attest or (), sbom, provenance),
    )
    options.check()
    execute(_build(ctx.obj, options))


def _once(invocation: Invocation, asked: bool | None, *, distribute: bool) -> bool:
    if distribute and asked is False:
        raise UsageFault("--distribute brings what one host built to the others, and --each has each build")
    return distribute or (invocation.builds_once() if asked is None else asked)


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
