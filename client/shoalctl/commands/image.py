"""`shoal image VERB`, as docker groups its verbs."""

from __future__ import annotations

from typing import ClassVar

import typer

from shoalctl.app import VERBS, Verb, VerbGroup


class ImageGroup(VerbGroup):
    """The verbs that mean images, under docker's names."""

    verbs: ClassVar = {
        **{name: VERBS[name] for name in ("build", "inspect", "load", "pull", "push", "save", "tag")},
        "ls": VERBS["images"],
        "rm": VERBS["rmi"],
        "prune": Verb("image_prune", "Delete images without a name, or all that no container uses"),
        "list": Verb("images"),
        "remove": Verb("rmi"),
    }


app = typer.Typer(
    cls=ImageGroup,
    help="Manage images.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"max_content_width": 110},
)


@app.callback()
def image() -> None:
    """Manage images."""
