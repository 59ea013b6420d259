"""Exit codes of the `shoal` command; docs/exit-codes.md is their contract."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import ShoalError

OK = 0
FAILED = 1
"""Every host that was asked failed (or the one), or the command failed before it asked any."""
USAGE = 2
"""The command line can't be understood; no host was asked."""
PARTIAL = 3
"""Some hosts failed, some did not."""
RUN_FAILED = 125
"""`shoal run` on one host: shoal failed, not the container."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130

# A flag's value, or targets that this client does not know: both are on the command line.
_USAGE_REASONS = frozenset(
    {"USAGE", "NO_TARGET", "UNKNOWN_HOST", "UNKNOWN_GROUP", "NO_HOST_MATCHES", "INVALID_SELECTOR"}
)


def combined(failed: Iterable[bool]) -> int:
    """The code for a fan-out, from whether each part of it failed. Nothing asked is a success."""
    outcomes = list(failed)
    if not any(outcomes):
        return OK
    return FAILED if all(outcomes) else PARTIAL


def for_error(error: ShoalError) -> int:
    """The code for an error that ended the command before it asked any host."""
    return USAGE if error.reason in _USAGE_REASONS else FAILED


def for_run(reason: str) -> int:
    """The code of `shoal run` on one host for an error's reason, as docker has it."""
    return {"COMMAND_NOT_FOUND": NOT_FOUND, "COMMAND_NOT_EXECUTABLE": NOT_EXECUTABLE}.get(reason, RUN_FAILED)
