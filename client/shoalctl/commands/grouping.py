"""Verbs of the top level once more below a noun, as docker groups them: `shoal container rm` is `shoal rm`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class NounGroup(TyperGroup):
    """A group of commands that are those of the top level, imported when they are called."""

    verbs: ClassVar[Mapping[str, str]] = {}
    """Name in the group -> name at the top level."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """As `verbs`, for names that the help does not list."""
    own: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Verbs that are only in this group: name -> (module of `shoalctl.commands`, line in the help)."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs of the help."""
        return sorted({*self.own, *(name for name, verb in self.verbs.items() if verb in _top_level())})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb's command; None when there is no such verb."""
        found = self._find(cmd_name)
        if found is None:
            return None
        command = typer.main.get_command(import_module(f"shoalctl.commands.{found[0]}").app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs, with the lines of the top level's help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, found[1]) for name in self.list_commands(ctx) if (found := self._find(name))])

    def _find(self, name: str) -> tuple[str, str] | None:
        if name in self.own:
            return self.own[name]
        verb = _top_level().get(self.verbs.get(name) or self.aliases.get(name) or "")
        return None if verb is None else (verb.module, verb.help)


def noun_app(help_text: str, group: type[NounGroup]) -> typer.Typer:
    """The Typer application of such a group."""
    made = typer.Typer(
        help=help_text,
        cls=group,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"max_content_width": 110},
    )
    made.callback()(_nothing)
    return made


def _nothing() -> None:
    """The group's own options: none."""


def _top_level() -> Mapping[str, Any]:
    from shoalctl.app import VERBS  # which is what imports this module

    return VERBS
