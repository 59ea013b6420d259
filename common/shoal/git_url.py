"""Git repositories as Dockerfiles and build contexts name them: URL[#REF[:DIRECTORY]].

https://docs.docker.com/build/concepts/context/#git-repositories
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shoal.errors import InvalidArgument

_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}")


@dataclass(frozen=True, slots=True)
class GitUrl:
    """A repository, a branch, tag or commit ("": the default branch), and a directory in it ("": its root)."""

    url: str
    ref: str = ""
    directory: str = ""

    @classmethod
    def parse(cls, text: str) -> GitUrl:
        """Raises InvalidArgument (INVALID_URL)."""
        url, _, rest = text.partition("#")
        ref, _, directory = rest.partition(":")
        if ref and not _REF.fullmatch(ref):
            raise InvalidArgument(
                f"{ref[:200]!r} is no branch, tag or commit", reason="INVALID_URL", hint="write URL#REF:DIRECTORY"
            )
        if ".." in directory.split("/"):
            raise InvalidArgument(f"the directory {directory[:200]!r} is not in the repository", reason="INVALID_URL")
        return cls(f"https://{url}" if url.startswith("github.com/") else url, ref, directory.strip("/"))
