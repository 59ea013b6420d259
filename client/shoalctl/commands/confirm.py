"""The question before something is removed for good."""

from __future__ import annotations

import typer

from shoalctl.flags.fault import UsageFault


def confirm(what: str) -> None:
    """Ask on standard error whether to remove it; a no ends the command. Raises UsageFault where nobody can answer."""
    from shoalctl.render.terminal import input_is_terminal

    if not input_is_terminal():
        raise UsageFault(f"this removes {what}", hint="say so with --force")
    typer.confirm(f"This removes {what}. Go on?", abort=True, err=True)
