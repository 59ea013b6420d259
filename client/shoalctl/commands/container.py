"""`shoal container VERB`, as docker groups its verbs."""

from __future__ import annotations

from typing import ClassVar

import typer

from shoalctl.app import VERBS, Verb, VerbGroup

_SAME = (
    "attach", "commit", "cp", "create", "diff", "exec", "export", "inspect", "kill", "logs", "pause", "port", "prune",
    "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait",
)  # fmt: skip


class ContainerGroup(VerbGroup):
    """The verbs that mean containers, under docker's names."""

    verbs: ClassVar = {
        **{name: VERBS[name] for name in _SAME},
        "ls": VERBS["ps"],
        "list": Verb("ps"),
        "ps": Verb("ps"),
        "remove": Verb("rm"),
    }


app = typer.Typer(
    cls=ContainerGroup,
    help="Manage containers.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"max_content_width": 110},
)


@app.callback()
def container() -> None:
    """Manage containers."""
