"""Nodes -> typed instructions: arguments counted, flags read, heredocs attached, Docker's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

from e2b_dockerfile_utils import parse_heredoc

from shoald.dockerfile import instructions as ins
from shoald.dockerfile.errors import DockerfileError, Span, parse_error
from shoald.dockerfile.flags import Flags, Kind, parse_flags
from shoald.dockerfile.gotext import parse_duration, parse_unsigned, quote
from shoald.dockerfile.mounts import check_mount
from shoald.dockerfile.source import Node, read

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_MIN_INTERVAL = 1_000_000  # 1 ms in ns
_TRANSFER_FLAGS = {"chown": Kind.TEXT, "chmod": Kind.TEXT, "link": Kind.BOOL, "exclude": Kind.LIST}


class _Common(TypedDict):
    text: str
    spelled: str
    span: Span


def instruction(node: Node) -> ins.Instruction:
    """The typed instruction of a node. Raises DockerfileError (DOCKERFILE_SYNTAX)."""
    try:
        return _PARSERS[node.keyword](node)
    except ValueError as e:
        raise parse_error(str(e), node.span) from None


def trigger(text: str, span: Span) -> ins.Instruction:
    """The instruction that an ONBUILD of the base holds; `span` is the FROM that fires it.

    Raises DockerfileError (DOCKERFILE_SYNTAX), also for an instruction that no trigger may be.
    """
    try:
        nodes = read(text.encode("utf-8", "replace")).nodes
    except DockerfileError as e:
        raise DockerfileError(f"invalid ONBUILD trigger of the base image: {e.message}", span=span) from None
    if len(nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression", span=span)
    node = replace(nodes[0], span=span)
    if node.keyword in {"FROM", "ONBUILD", "MAINTAINER"}:
        raise DockerfileError(f"{node.keyword} isn't allowed as an ONBUILD trigger", span=span)
    return replace(instruction(node), onbuild=True)


def _common(node: Node) -> _Common:
    return {"text": node.text, "spelled": node.spelled, "span": node.span}


def _at_least_one(node: Node) -> None:
    if not node.args:
        raise ValueError(f"{node.keyword} requires at least one argument")


def _exactly_one(node: Node) -> str:
    if len(node.args) != 1:
        raise ValueError(f"{node.keyword} requires exactly one argument")
    parse_flags(node.flags)
    return node.args[0]


def _command(node: Node) -> ins.CommandLine:
    if node.is_json:
        return ins.CommandLine(node.args, exec_form=True)
    return ins.CommandLine((" ".join(node.args),), exec_form=False)


def _from(node: Node) -> ins.From:
    args = node.args
    name = spelled = as_spelled = ""
    if len(args) == 3 and args[1].lower() == "as":
        as_spelled, spelled = args[1], args[2]
        name = spelled.lower()
        if not _STAGE_NAME.fullmatch(name):
            problem = "name can't start with a number or contain symbols"
            raise ValueError(f"invalid name for build stage: {quote(spelled[:200])}, {problem}")
    elif len(args) != 1:
        raise ValueError("FROM requires either one or three arguments")
    flags = parse_flags(node.flags, platform=Kind.TEXT)
    return ins.From(
        **_common(node),
        base=args[0],
        platform=flags.text("platform"),
        name=name,
        name_spelled=spelled,
        as_spelled=as_spelled,
    )


def _run(node: Node) -> ins.Run:
    flags = parse_flags(node.flags, mount=Kind.LIST, network=Kind.TEXT, security=Kind.TEXT, device=Kind.LIST)
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    if network not in {"default", "none", "host"}:
        raise ValueError(f"network {quote(network[:200])} is not valid")
    if security not in {"sandbox", "insecure"}:
        raise ValueError(f"security {quote(security[:200])} is not valid")
    for mount in flags.all("mount"):
        check_mount(mount)
    return ins.Run(
        **_common(node),
        command=_command(node),
        files=tuple(ins.HeredocFile(h.name, h.content, h.data) for h in node.heredocs),
        mounts=flags.all("mount"),
        devices=flags.all("device"),
        network=network,
        security=security,
    )


def _sources(node: Node) -> tuple[tuple[str, ...], tuple[ins.InlineFile, ...], str]:
    if len(node.args) < 2:
        problem = "requires at least two arguments, but only one was provided. Destination could not be determined"
        raise ValueError(f"{node.keyword} {problem}")
    *sources, dest = node.args
    if not node.is_json and parse_heredoc(dest) is not None:
        raise ValueError(f"{node.keyword} cannot accept a heredoc as a destination")
    heredocs = {h.name: h for h in node.heredocs}
    paths: list[str] = []
    files: list[ins.InlineFile] = []
    for source in sources:
        marker = None if node.is_json else parse_heredoc(source)
        found = heredocs.get(marker.name) if marker else None
        if found is None:
            paths.append(source)
        else:
            files.append(ins.InlineFile(found.name, found.data, found.expand))
    return tuple(paths), tuple(files), dest


def _copy(node: Node) -> ins.Copy:
    sources, files, dest = _sources(node)
    flags = parse_flags(node.flags, **_TRANSFER_FLAGS, **{"from": Kind.TEXT}, parents=Kind.BOOL)
    return ins.Copy(
        **_common(node),
        sources=sources,
        files=files,
        dest=dest,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.on("link"),
        exclude=flags.all("exclude"),
        from_=flags.text("from"),
        parents=flags.on("parents"),
    )


def _add(node: Node) -> ins.Add:
    sources, files, dest = _sources(node)
    flags = parse_flags(node.flags, **_TRANSFER_FLAGS, checksum=Kind.TEXT, keep_git_dir=Kind.BOOL, unpack=Kind.BOOL)
    return ins.Add(
        **_common(node),
        sources=sources,
        files=files,
        dest=dest,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.on("link"),
        exclude=flags.all("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.maybe("keep-git-dir"),
        unpack=flags.maybe("unpack"),
    )


def _pairs(node: Node) -> tuple[ins.Pair, ...]:
    parse_flags(node.flags)
    _at_least_one(node)
    args = node.args
    pairs = tuple(ins.Pair(args[i], args[i + 1], legacy=not args[i + 2]) for i in range(0, len(args) - 2, 3))
    if any(not p.key for p in pairs):
        raise ValueError(f"{node.keyword} names can not be blank")
    return pairs


def _arg(node: Node) -> ins.Arg:
    parse_flags(node.flags)
    _at_least_one(node)
    args: list[tuple[str, str | None]] = []
    for word in node.args:
        name, assigned, value = word.partition("=")
        if not name:
            raise ValueError("ARG names can not be blank")
        args.append((name, value if assigned else None))
    return ins.Arg(**_common(node), args=tuple(args))


def _expose(node: Node) -> ins.Expose:
    _at_least_one(node)
    parse_flags(node.flags)
    return ins.Expose(**_common(node), ports=tuple(sorted(node.args)))


def _volume(node: Node) -> ins.Volume:
    _at_least_one(node)
    parse_flags(node.flags)
    paths = tuple(a.strip() for a in node.args)
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    return ins.Volume(**_common(node), paths=paths)


def _shell(node: Node) -> ins.Shell:
    parse_flags(node.flags)
    _at_least_one(node)
    if not node.is_json:
        example = json.dumps(node.args[0][:200].split(), ensure_ascii=False)
        raise ValueError(f"SHELL requires the arguments to be in JSON form, such as SHELL {example}")
    return ins.Shell(**_common(node), shell=node.args)


def _onbuild(node: Node) -> ins.Onbuild:
    parse_flags(node.flags)
    text = re.sub(r"(?i)^\s*ONBUILD\s*", "", node.text)
    word = text.split(None, 1)[0].upper() if text.split() else ""
    if not word:
        raise ValueError("ONBUILD requires at least one argument")
    if word == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in {"MAINTAINER", "FROM"}:
        raise ValueError(f"{word} isn't allowed as an ONBUILD trigger")
    text += "".join(f"\n{h.content}{h.name}" for h in node.heredocs)
    return ins.Onbuild(**_common(node), trigger=text)


def _healthcheck(node: Node) -> ins.Healthcheck:
    _at_least_one(node)
    kind, args = node.args[0].upper(), node.args[1:]
    if kind == "NONE":
        if any(args):
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        parse_flags(node.flags)
        return ins.Healthcheck(**_common(node), health=ins.HealthcheckConfig(test=("NONE",)))
    names = ("interval", "timeout", "start_period", "start_interval", "retries")
    flags = parse_flags(node.flags, **dict.fromkeys(names, Kind.TEXT))
    if kind != "CMD":
        raise ValueError(f"Unknown type {quote(kind[:200])} in HEALTHCHECK (try CMD)")
    if not any(args):
        raise ValueError("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *args) if node.is_json else ("CMD-SHELL", " ".join(args))
    retries = flags.text("retries")
    if retries.startswith("-") and retries[1:].isdecimal():
        raise ValueError(f"--retries cannot be negative ({retries[:20]})")
    health = ins.HealthcheckConfig(
        test=test,
        interval=_interval(flags, "interval"),
        timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"),
        start_interval=_interval(flags, "start-interval"),
        retries=parse_unsigned(retries.removeprefix("+"), limit=2**31 - 1) if retries else 0,
    )
    return ins.Healthcheck(**_common(node), health=health)


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    duration = parse_duration(text) if text else 0
    if duration and duration < _MIN_INTERVAL:
        raise ValueError(f"Interval {quote(name)} cannot be less than 1ms")
    return duration


def _stop_signal(node: Node) -> ins.StopSignal:
    return ins.StopSignal(**_common(node), signal=_exactly_one(node))


def _cmd(node: Node) -> ins.Cmd:
    parse_flags(node.flags)
    return ins.Cmd(**_common(node), command=_command(node))


def _entrypoint(node: Node) -> ins.Entrypoint:
    parse_flags(node.flags)
    return ins.Entrypoint(**_common(node), command=_command(node))


_PARSERS: dict[str, Callable[[Node], ins.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": lambda node: ins.Env(**_common(node), pairs=_pairs(node)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda node: ins.Label(**_common(node), pairs=_pairs(node)),
    "MAINTAINER": lambda node: ins.Maintainer(**_common(node), name=_exactly_one(node)),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": lambda node: ins.User(**_common(node), user=_exactly_one(node)),
    "VOLUME": _volume,
    "WORKDIR": lambda node: ins.Workdir(**_common(node), path=_exactly_one(node)),
}
