"""Errors for people: one message with the host and, on a second line, the remedy."""

from __future__ import annotations

from shoal.errors import Internal, ShoalError
from shoalctl.render import console


def show_error(error: ShoalError, host: str | None = None) -> None:
    """Print an error to standard error: `shoal: HOST: message`, then the hint."""
    console.flush()
    for line in error_lines(error, host):
        console.err(line)
    if isinstance(error, Internal) and error.__cause__ is not None:
        from shoalctl.render.defects import show_traceback

        show_traceback(error.__cause__)


def error_lines(error: ShoalError, host: str | None = None) -> list[str]:
    """The lines that `show_error` prints."""
    label = console.styled("shoal:", "red", error=True)
    where = f" {host}:" if host else ""
    first, *more = error.message.splitlines() or [error.reason]
    lines = [f"{label}{where} {console.printable(first)}"]
    lines += [f"  {console.printable(line.expandtabs(4))}" for line in more]
    if error.hint:
        lines.append(f"  hint: {console.printable(error.hint)}")
    return lines


def show_warning(text: str, host: str | None = None) -> None:
    """Print a warning to standard error."""
    label = console.styled("warning:", "yellow", error=True)
    console.err(f"{label} {f'{host}: ' if host else ''}{console.printable(text)}")
