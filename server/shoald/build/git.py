"""ADD of git repositories, by the host's own git: as nobody, without anybody's configuration, keys or logins.

What only the host can reach is refused as for URLs (see remote): names are resolved here, and git goes to the address
that was looked at. Hooks, filters and submodules of the repository are never run or followed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from yarl import URL

from shoal.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ShoalError,
    Unavailable,
)
from shoal.git_url import GitUrl
from shoald.build.addresses import Subnet, is_local, own_addresses, subnets
from shoald.host.process import run
from shoald.registry.proxies import Proxies

TIMEOUT_S = 900.0
_NOBODY = 65534
_PORTS = {"http": 80, "https": 443, "git": 9418}
_INSIDE = 'mount --bind "$1" /mnt && cd /mnt && shift && exec "$@"'
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SETTINGS = (
    "protocol.allow=never", "protocol.http.allow=always", "protocol.https.allow=always", "protocol.git.allow=always",
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "credential.helper=", "http.followRedirects=false",
    "transfer.fsckObjects=true", "advice.detachedHead=false", "init.defaultBranch=main",
)  # fmt: skip


def repository_of(text: str) -> GitUrl:
    """Raises InvalidArgument (INVALID_URL)."""
    found = GitUrl.parse(text)
    parts = urlsplit(found.url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidArgument(
            f"{found.url[:200]} is no http, https or git URL",
            reason="INVALID_URL",
            hint="over ssh: clone it in a RUN --mount=type=ssh step",
        )
    return found


async def clone(
    text: str,
    place: Path,
    *,
    checksum: str = "",
    keep_git_dir: bool = False,
    local: bool = False,
    networks: Sequence[str] = (),
) -> str:
    """Check a repository out into a new directory `place`, all of it root's; the commit.

    Raises InvalidArgument (INVALID_URL), NotFound (REF_NOT_FOUND), Unavailable (URL_UNREACHABLE), PermissionDenied
    (URL_REFUSED), DataLoss (CHECKSUM_MISMATCH), FailedPrecondition (PROGRAM_MISSING).
    """  # fmt: skip
    repository = repository_of(text)
    if shutil.which("git") is None:
        raise FailedPrecondition("git is not installed", reason="PROGRAM_MISSING", hint="on the host: apt install git")
    if checksum and not _COMMIT.fullmatch(checksum):
        raise InvalidArgument(f"{checksum[:100]!r} is no commit", reason="INVALID_URL")
    pinned = [] if local else await _pinned(repository.url, networks)
    place.mkdir(mode=0o755)
    os.chown(place, _NOBODY, _NOBODY)
    git = _Git(place, pinned)
    try:
        await git("init", "--quiet")
        await _fetch(git, repository)
        await git("checkout", "--quiet", "--force", "FETCH_HEAD")
        commit = (await git("rev-parse", "HEAD")).strip()
    except ShoalError as error:
        if error.reason == "PROGRAM_FAILED":
            raise Unavailable(f"can't fetch {text[:200]}: {error.message}", reason="URL_UNREACHABLE") from error
        raise
    if checksum and not commit.startswith(checksum):
        raise DataLoss(f"{text[:200]} is commit {commit}, not {checksum}", reason="CHECKSUM_MISMATCH")
    await asyncio.to_thread(_settled, place, keep_git_dir=keep_git_dir)
    return commit


async def _fetch(git: _Git, repository: GitUrl) -> None:
    """The commit alone where the server can, else all that leads to it."""
    wanted = [repository.ref or "HEAD"]
    if repository.ref and not re.fullmatch("[0-9a-f]{40}", repository.ref):
        # A branch wins over a tag of its name, as in BuildKit.
        wanted = [f"refs/heads/{repository.ref}", f"refs/tags/{repository.ref}", repository.ref]
    failure: ShoalError | None = None
    for ref in wanted:
        for depth in (["--depth=1"], []):
            try:
                await git("fetch", "--quiet", "--no-tags", *depth, repository.url, ref)
            except ShoalError as error:
                if error.reason != "PROGRAM_FAILED":
                    raise
                failure = error
            else:
                return
    assert failure is not None
    if "find remote ref" in failure.message:
        raise NotFound(f"{repository.url} has no {repository.ref}", reason="REF_NOT_FOUND") from failure
    raise failure


async def _pinned(url: str, networks: Sequence[str]) -> list[str]:
    """Settings that keep git to an address that is not of the host alone. Raises PermissionDenied (URL_REFUSED)."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if parts.scheme == "git":
        raise PermissionDenied(
            "git:// goes over a channel that anybody can change", reason="URL_REFUSED", hint="write https://"
        )
    if Proxies().of(URL(url)) is not None:
        return []
    refused: list[Subnet] = [*subnets(networks), *await asyncio.to_thread(own_addresses)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{host} does not resolve: {error.strerror}", reason="URL_UNREACHABLE") from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if any(is_local(address, refused) for address in addresses):
        raise PermissionDenied(
            f"{host} is an address of the host itself", reason="URL_REFUSED", hint="an admin can: --network host"
        )
    shown = ",".join(f"[{each}]" if ":" in each else each for each in addresses)
    return [f"http.curloptResolve={host}:{port}:{shown}"]


class _Git:
    """Runs git as nobody in a directory."""

    def __init__(self, place: Path, settings: Sequence[str]) -> None:
        self._place = place
        self._settings = [word for each in (*_SETTINGS, *settings) for word in ("-c", each)]

    async def __call__(self, *arguments: str) -> str:
        # The directory lies below ones that only root may pass: git sees it in a place of its own.
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh", str(self._place)]
        nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"]
        env = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        env |= {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_DIR": ".git",
            "GIT_WORK_TREE": ".",
            "LC_ALL": "C.UTF-8",
        }
        argv = [*inside, *nobody, "git", *self._settings, *arguments]
        done = await run(argv, timeout=TIMEOUT_S, env=env, cwd=self._place)
        return done.stdout.decode(errors="replace")


def _settled(place: Path, *, keep_git_dir: bool) -> None:
    """All is root's, as what COPY brings; of git's own directory nothing that tells of this fetch."""
    for name in ("FETCH_HEAD", "logs", "hooks"):
        path = place / ".git" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not keep_git_dir:
        shutil.rmtree(place / ".git")
    for directory, directories, files in os.walk(place):
        for name in (".", *directories, *files):
            os.chown(os.path.join(directory, name), 0, 0, follow_symlinks=False)
