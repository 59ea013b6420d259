"""The error of a flag that can't be understood."""

from __future__ import annotations

from shoal.errors import InvalidArgument


class UsageFault(InvalidArgument):
    """A flag or argument has a value that can't be understood; no host was asked."""

    default_reason = "USAGE"
