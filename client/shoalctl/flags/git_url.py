"""Git repositories as build contexts: URL[#REF[:DIRECTORY]], as docker build reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shoalctl.flags.fault import UsageFault

_GIT = re.compile(r"(git://|ssh://|git@[^/]+:|github\.com/)|https?://[^#]*\.git(#.*)?$")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")


def is_git_url(text: str) -> bool:
    """Whether a context is a repository."""
    return _GIT.match(text) is not None


@dataclass(frozen=True, slots=True)
class GitUrl:
    """A repository, a branch, tag or commit ("": the default branch), and a directory in it."""

    url: str
    ref: str
    directory: str

    @classmethod
    def parse(cls, text: str) -> GitUrl:
        """Raises UsageFault."""
        url, _, rest = text.partition("#")
        ref, _, directory = rest.partition(":")
        if ref and not _REF.fullmatch(ref):
            raise UsageFault(f"{ref!r} is no branch, tag or commit", hint="write URL#REF:DIRECTORY")
        if ".." in directory.split("/"):
            raise UsageFault(f"the directory {directory!r} leads out of the repository")
        return cls(f"https://{url}" if url.startswith("github.com/") else url, ref, directory.strip("/"))
