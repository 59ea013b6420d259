"""Flags that take one word of a few."""

from __future__ import annotations

from shoalctl.flags.fault import UsageFault

_PROGRESS = ("auto", "plain", "tty", "quiet", "json")


def check_progress(text: str) -> None:
    """`--progress` of builds. Raises UsageFault."""
    if text not in _PROGRESS:
        raise UsageFault(f"--progress {text!r} is unknown", hint="choose auto, plain, tty, quiet or json")
