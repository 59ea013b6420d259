"""Which build contexts are git repositories, as docker build tells them from paths."""

from __future__ import annotations

import re

from shoal.errors import InvalidArgument
from shoal.git_url import GitUrl
from shoalctl.flags.fault import UsageFault

_GIT = re.compile(r"(git://|ssh://|git@[^/]+:|github\.com/)|https?://[^#]*\.git(#.*)?$")


def is_git_url(text: str) -> bool:
    """Whether a context is a repository."""
    return _GIT.match(text) is not None


def check_git_url(text: str) -> None:
    """Raises UsageFault for one that can't be."""
    try:
        GitUrl.parse(text)
    except InvalidArgument as error:
        raise UsageFault(error.message, hint=error.hint) from error
