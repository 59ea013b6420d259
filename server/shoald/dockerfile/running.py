"""RUN: the command with its shell and heredocs, its mounts, and the line of the history."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from e2b_dockerfile_utils import parse_heredoc

from shoald.dockerfile import instructions as ins
from shoald.dockerfile.gotext import quote
from shoald.dockerfile.mounts import MountOptions, parse_mount
from shoald.dockerfile.paths import clean
from shoald.dockerfile.steps import (
    DEFAULT_HOSTNAME,
    Base,
    ContextBase,
    MountType,
    RunMount,
    RunStep,
    ScratchBase,
    Sharing,
)

if TYPE_CHECKING:
    from shoald.dockerfile.transition import Transition

_PIPES = "/dev/pipes"
_HOSTNAME = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def run_step(work: Transition, run: ins.Run) -> RunStep:
    """The step of a RUN. Raises ValueError and DockerfileError."""
    command, files, summary = _with_heredocs(run)
    argv = work.in_shell(command)
    mounts = tuple(_mount(work, run, text) for text in run.mounts)
    secrets = frozenset(m.env for m in mounts if m.env)
    arguments = _build_args(work)
    return RunStep(
        text=work.shown(run.text + summary, raw_quotes=True, hidden=secrets),
        created_by=_created_by(arguments, argv),
        span=run.span,
        onbuild=run.onbuild,
        argv=argv,
        env=work.env,
        user=work.config.user,
        workdir=work.config.working_dir or "/",
        mounts=mounts,
        network=run.network,
        security=run.security,
        devices=tuple(work.expand(device) for device in run.devices),
        files=files,
        proxy_env=work.plan.proxy_env,
        build_args=arguments,
        hostname=_hostname(work),
    )


def _hostname(work: Transition) -> str:
    name = work.plan.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or DEFAULT_HOSTNAME
    if not _HOSTNAME.fullmatch(name):
        raise ValueError(f"BUILDKIT_SANDBOX_HOSTNAME: {quote(name[:80])} is not a host name")
    return name


def _with_heredocs(run: ins.Run) -> tuple[ins.CommandLine, tuple[ins.InlineFile, ...], str]:
    """The command, the files that it needs, and a tail for the text to show.

    One heredoc alone is the script itself: given to the shell, or run as a file when it begins with `#!`. Otherwise
    the shell gets the heredocs as they are.
    """
    if not run.files:
        return run.command, (), ""
    line, first = run.command.words[0], run.files[0]
    if parse_heredoc(line) is not None:
        lines = first.raw.strip().splitlines() or [""]
        summary = f" ({lines[0]}{'...' if len(lines) > 1 else ''})"
        if not first.data.startswith("#!"):
            return ins.CommandLine((first.data,), exec_form=False), (), summary
        script = ins.CommandLine((posixpath.join(_PIPES, first.name),), exec_form=False)
        return script, (ins.InlineFile(first.name, first.data),), summary
    whole = line + "".join(f"\n{file.raw}{file.name}" for file in run.files)
    return ins.CommandLine((whole,), exec_form=False), (), ""


def _build_args(work: Transition) -> tuple[tuple[str, str], ...]:
    """The declared ARGs in order with the values that RUN sees."""
    found = {name: work.env.get(name, value or "") for name, value in work.build_args}
    return tuple(found.items())


def _created_by(arguments: tuple[tuple[str, str], ...], argv: tuple[str, ...]) -> str:
    counted = [f"|{len(arguments)}"] if arguments else []
    return " ".join(["RUN", *counted, *(f"{name}={value}" for name, value in arguments), *argv, "# buildkit"])


def _mount(work: Transition, run: ins.Run, text: str) -> RunMount:
    options = parse_mount(text, work.expand)
    kind = MountType(options.type)
    if kind is MountType.SECRET:
        return _secret(options)
    if kind is MountType.SSH:
        target = clean(options.target, work.config.working_dir or "/") if options.target else ""
        return _common(options, kind, target, options.id or "default", ContextBase())
    target = clean(options.target, work.config.working_dir or "/")
    if target == "/":
        raise ValueError(f"invalid mount target {quote(target)}")
    base: Base = ContextBase()
    if options.from_ and kind is not MountType.TMPFS:
        base = work.plan.base_of(options.from_, run.span)
    elif kind is not MountType.BIND:
        base = ScratchBase()
    identity = _cache_id(work, options.id or target) if kind is MountType.CACHE else ""
    return _common(options, kind, target, identity, base)


def _cache_id(work: Transition, name: str) -> str:
    """A namespace, where the build has one, keeps its caches apart from those of other builds."""
    space = work.plan.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
    return f"{space}/{name}" if space else name


def _secret(options: MountOptions) -> RunMount:
    identity = options.source or options.id or posixpath.basename(options.target)
    if not identity:
        raise ValueError("one of source, target required")
    target = clean(options.target) if options.target else ""
    if not target and options.env is None:
        target = f"/run/secrets/{posixpath.basename(identity)}"
    return _common(options, MountType.SECRET, target, identity, ContextBase())


def _common(options: MountOptions, kind: MountType, target: str, identity: str, base: Base) -> RunMount:
    in_base = kind in {MountType.BIND, MountType.CACHE}
    return RunMount(
        type=kind,
        target=target,
        base=base,
        source=clean(options.source) if in_base else "/",
        read_only=bool(options.read_only),
        id=identity,
        sharing=Sharing(options.sharing or "shared"),
        required=options.required,
        size=options.size,
        mode=options.mode,
        uid=options.uid,
        gid=options.gid,
        env=options.env,
    )
