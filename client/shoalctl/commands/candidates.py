"""What can stand at the end of a command line: verbs, flags, hosts, groups, containers, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from shoal.errors import ShoalError
from shoalctl.invocation import Invocation

_CONTAINER_VERBS = frozenset(
    {
        "stop", "start", "kill", "rm", "logs", "wait", "inspect", "restart", "pause", "unpause", "rename", "update",
        "top", "stats", "diff", "commit", "port", "exec", "attach", "export",
    }
)  # fmt: skip
_IMAGE_VERBS = frozenset({"rmi", "tag", "push", "run", "create", "inspect"})
_PATIENCE = 2.0  # s; a completion that takes longer is worse than none


def candidates(invocation: Invocation, line: Sequence[str]) -> list[str]:
    """The words that the last word of `line` (the arguments after `shoal`) may become, sorted."""
    *before, last = line
    command, invocation = _walked(before, invocation)
    flag, equals, _ = last.partition("=")
    if equals and flag.startswith("--"):
        return [f"{flag}={value}" for value in _values(flag, last[len(flag) + 1 :], invocation)]
    if before and _takes_value(command, before[-1]):
        return _values(before[-1], last, invocation)
    if last.startswith("-"):
        return _begin(last, [option for param in command.params for option in getattr(param, "opts", ())])
    if hasattr(command, "list_commands"):
        context = typer.Context(command, info_name="shoal")
        return _begin(last, command.list_commands(context))
    return _begin(last, _names(command.name, invocation))


def _walked(words: Sequence[str], invocation: Invocation) -> tuple[Any, Invocation]:
    """The command that the words have led to, and the targets that they name."""
    from shoalctl.app import app

    command: Any = typer.main.get_command(app)
    skip = False
    for at, word in enumerate(words):
        if skip:
            skip = False
            continue
        if word.startswith("-"):
            skip = _takes_value(command, word)
            value = words[at + 1] if skip and at + 1 < len(words) else ""
            if word in {"-H", "--host"} and value:
                invocation = invocation.extended(hosts=[value])
            elif word in {"-g", "--group"} and value:
                invocation = invocation.extended(groups=[value])
            continue
        if hasattr(command, "get_command"):
            found = command.get_command(typer.Context(command, info_name="shoal"), word)
            if found is None:
                break
            command = found
    return command, invocation


def _takes_value(command: Any, word: str) -> bool:
    return any(
        word in param.opts and not getattr(param, "is_flag", False)
        for param in command.params
        if getattr(param, "param_type_name", "") == "option"
    )


def _values(flag: str, text: str, invocation: Invocation) -> list[str]:
    try:
        inventory = invocation.inventory()
    except ShoalError:
        return []
    if flag in {"-H", "--host"}:
        done, comma, part = text.rpartition(",")
        return [f"{done}{comma}{name}" for name in _begin(part, list(inventory.hosts))]
    return _begin(text, list(inventory.groups)) if flag in {"-g", "--group"} else []


def _names(verb: str, invocation: Invocation) -> list[str]:
    if verb not in _CONTAINER_VERBS | _IMAGE_VERBS:
        return []
    import asyncio

    try:
        return asyncio.run(_ask(verb, invocation._replace(timeout=_PATIENCE)))
    except ShoalError:
        return []


async def _ask(verb: str, invocation: Invocation) -> list[str]:
    import asyncio

    from shoal.reference import Reference
    from shoal.v1 import container_pb2

    found: set[str] = set()
    async with invocation.fleet() as fleet:
        try:
            async with asyncio.timeout(_PATIENCE):
                if verb in _CONTAINER_VERBS:
                    request = container_pb2.ContainerServiceListRequest(all=verb != "stop")
                    async for result in fleet.containers(request):
                        found.update(item.name for item in result.value or ())
                if verb in _IMAGE_VERBS:
                    async for images in fleet.images():
                        found.update(
                            Reference.parse(tag).familiar() for item in images.value or () for tag in item.tags
                        )
        except TimeoutError:
            pass
    return sorted(found)


def _begin(text: str, words: Sequence[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(text)})
