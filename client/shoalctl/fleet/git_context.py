"""A git repository as a build context: checked out on this machine, by this machine's git and with its keys and logins.

The hosts get files only. What git needs to get at a private repository stays here.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from shoal.errors import FailedPrecondition, NotFound, Unavailable
from shoal.git_url import GitUrl


@contextmanager
def checked_out(text: str) -> Iterator[str]:
    """A directory with the repository's files for the time of the block. Blocking.

    Raises InvalidArgument, FailedPrecondition (PROGRAM_MISSING), Unavailable (URL_UNREACHABLE), NotFound
    (PATH_NOT_FOUND).
    """
    wanted = GitUrl.parse(text)
    with tempfile.TemporaryDirectory(prefix="shoal-context-") as place:
        _git(place, "init", "--quiet")
        if not _try(place, "fetch", "--quiet", "--no-tags", "--depth=1", wanted.url, wanted.ref or "HEAD"):
            _git(place, "fetch", "--quiet", "--tags", wanted.url, wanted.ref or "HEAD")
        _git(place, "checkout", "--quiet", "FETCH_HEAD")
        _git(place, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
        directory = os.path.join(place, wanted.directory)
        if not os.path.isdir(directory) or not os.path.realpath(directory).startswith(os.path.realpath(place)):
            raise NotFound(f"{wanted.url} has no directory {wanted.directory!r}", reason="PATH_NOT_FOUND")
        yield directory


def _try(place: str, *arguments: str) -> bool:
    try:
        _git(place, *arguments)
    except Unavailable:
        return False
    return True


def _git(place: str, *arguments: str) -> None:
    argv = ["git", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main", *arguments]
    try:
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise FailedPrecondition("git is not installed here", reason="PROGRAM_MISSING") from error
    if done.returncode != 0:
        raise Unavailable(f"git {arguments[0]}: {done.stderr.strip()[-1000:]}", reason="URL_UNREACHABLE")
