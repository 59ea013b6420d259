"""Numbers and durations that no message has room for are errors of usage, for every flag of every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from shoalctl.app import VERBS, app
from shoalctl.commands.isolation_flags import HEALTH
from tests.support.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Shoal

HUGE = "99999999999999999999999"


def _commands(group: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(typer.Context(group)):
        found = group.get_command(typer.Context(group), name)
        if hasattr(found, "list_commands"):
            yield from _commands(found, (*at, name))
        else:
            yield (*at, name), found


def _numbers() -> Iterator[tuple[str, ...]]:
    for words, command in _commands(typer.main.get_command(app)):
        if words[0] in ("host", "pki"):
            continue
        for param in command.params:
            if param.param_type_name == "option" and param.type.name == "int":
                needed = [other for other in command.params if other.param_type_name == "argument" and other.required]
                yield (*words, f"{param.opts[0]}={HUGE}", *("x" for _ in needed))


CASES = [
    *_numbers(),
    *(("run", f"{flag.spelling}={HUGE}", "busybox") for flag in HEALTH if flag.metavar == "TIME"),
    ("run", "--config", "", "busybox"),
    ("logs", "--tail", HUGE, "web"),
    ("logs", "--since", f"{HUGE}h", "web"),
]


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_out_of_range(arguments: tuple[str, ...], shoal: Shoal, h1: FakeDaemon) -> None:
    code, out, err = shoal(*arguments)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err


def test_there_are_such_flags() -> None:
    assert len(CASES) > 15
    assert {"run", "stop", "ps", "update"} <= {case[0] for case in CASES} <= set(VERBS)
