"""Errors that no host and no user has made: a standard stream that takes nothing more, and defects."""

from __future__ import annotations

from shoal.errors import Internal


class OutputFault(OSError):
    """Standard output or error (`filename`) can't be written: the end of the command, whatever its hosts do."""


def internal(error: Exception) -> Internal:
    """An error that nobody expected, as one that can be shown; it is the cause."""
    made = Internal(f"internal error: {type(error).__name__}: {error}".rstrip(": "))
    made.__cause__ = error
    return made
