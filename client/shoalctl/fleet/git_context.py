"""A git repository as a build context: checked out on this machine, by this machine's git and with its keys and logins.

The hosts get files only. What git needs to get at a private repository stays here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from shoal.errors import FailedPrecondition, NotFound, Unavailable
from shoal.git_url import GitUrl


@contextmanager
def checked_out(text: str, *, keep_git_dir: bool = False) -> Iterator[str]:
    """A directory with the files of the repository and its submodules for the time of the block. Blocking.

    Raises InvalidArgument, FailedPrecondition (PROGRAM_MISSING), Unavailable (URL_UNREACHABLE), NotFound
    (PATH_NOT_FOUND).
    """
    wanted = GitUrl.parse(text)
    with tempfile.TemporaryDirectory(prefix="shoal-context-") as place:
        _git(place, "init", "--quiet")
        # What relative URLs of submodules are relative to.
        _git(place, "remote", "add", "origin", wanted.url)
        if not _try(place, "fetch", "--quiet", "--no-tags", "--depth=1", wanted.url, wanted.ref or "HEAD"):
            _git(place, "fetch", "--quiet", "--tags", wanted.url, wanted.ref or "HEAD")
        _git(place, "checkout", "--quiet", "FETCH_HEAD")
        submodules = ("submodule", "--quiet", "update", "--init", "--recursive")
        if not _try(place, *submodules, "--depth=1"):
            _git(place, *submodules)
        if not keep_git_dir:
            _without_git(place)
        directory = os.path.join(place, wanted.directory)
        if not os.path.isdir(directory) or not _is_below(os.path.realpath(directory), os.path.realpath(place)):
            raise NotFound(f"{wanted.url} has no directory {wanted.directory!r}", reason="PATH_NOT_FOUND")
        yield directory


def _is_below(path: str, directory: str) -> bool:
    return os.path.commonpath((path, directory)) == directory


def _without_git(place: str) -> None:
    """Only git itself makes files of that name, of the repository and of each submodule."""
    for directory, directories, files in os.walk(place):
        if ".git" in directories:
            directories.remove(".git")
            _remove(os.path.join(directory, ".git"))
        if ".git" in files:
            os.unlink(os.path.join(directory, ".git"))


def _remove(directory: str) -> None:
    for inner, _, files in os.walk(directory):
        for name in files:
            # Git's objects are read-only, which Windows does not delete.
            os.chmod(os.path.join(inner, name), 0o600)
    shutil.rmtree(directory)


def _try(place: str, *arguments: str) -> bool:
    try:
        _git(place, *arguments)
    except Unavailable:
        return False
    return True


def _git(place: str, *arguments: str) -> None:
    # Of files of this machine a repository gets none: older versions of git do not refuse such submodules themselves.
    settings = ("advice.detachedHead=false", "init.defaultBranch=main", "protocol.file.allow=user")
    argv = ["git", *(word for each in settings for word in ("-c", each)), *arguments]
    try:
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise FailedPrecondition("git is not installed here", reason="PROGRAM_MISSING") from error
    if done.returncode != 0:
        raise Unavailable(f"git {arguments[0]}: {done.stderr.strip()[-1000:]}", reason="URL_UNREACHABLE")
