"""ADD of git repositories, by the host's own git: as nobody, without anybody's configuration, keys or logins.

What only the host can reach is refused as for URLs (see remote): names are resolved here, and git goes to the address
that was looked at. Hooks and filters of the repository are never run. Its submodules are fetched here one by one, each
as if it were an ADD of its own; git would go wherever a repository says.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import stat
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
from shoald.build.submodules import (
    MAX_DEPTH,
    MAX_SUBMODULES,
    Submodule,
    gitlinks,
    refused,
    submodules,
    without_login,
)
from shoald.host.process import run
from shoald.registry.proxies import Proxies

TIMEOUT_S = 900.0
_NOBODY = 65534
_PORTS = {"http": 80, "https": 443, "git": 9418}
_INSIDE = 'mount --bind "$1" /mnt && cd /mnt && shift && exec "$@"'
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_WHOLE_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Of what is not in here, git and Python could understand different hosts.
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f.]*:[0-9a-f:.]*")
_UNCLEAR = re.compile(r"[\x00-\x20\x7f\\#]")
_SETTINGS = (
    "protocol.allow=never", "protocol.http.allow=always", "protocol.https.allow=always", "protocol.git.allow=always",
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "credential.helper=", "http.followRedirects=false",
    "gc.auto=0", "maintenance.auto=false", "submodule.recurse=false", "transfer.fsckObjects=true",
    "advice.detachedHead=false", "init.defaultBranch=main",
)  # fmt: skip


def repository_of(text: str) -> GitUrl:
    """Raises InvalidArgument (INVALID_URL)."""
    found = GitUrl.parse(text)
    _check_url(found.url)
    return found


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        plain = bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0 and parts.netloc.count("@") <= 1
    except ValueError:
        plain = False
    if not plain or parts.scheme not in _PORTS or _UNCLEAR.search(url):
        raise InvalidArgument(
            f"{url[:200]} is no http, https or git URL",
            reason="INVALID_URL",
            hint="over ssh: clone it in a RUN --mount=type=ssh step",
        )


async def clone(
    text: str,
    place: Path,
    *,
    checksum: str = "",
    keep_git_dir: bool = False,
    local: bool = False,
    networks: Sequence[str] = (),
) -> str:
    """Check a repository out into a new directory `place`, with its submodules, all of it root's; the commit.

    Raises InvalidArgument (INVALID_URL, SUBMODULE_REFUSED), NotFound (REF_NOT_FOUND), Unavailable (URL_UNREACHABLE),
    PermissionDenied (URL_REFUSED), DataLoss (CHECKSUM_MISMATCH), FailedPrecondition (PROGRAM_MISSING).
    """  # fmt: skip
    repository = repository_of(text)
    if shutil.which("git") is None:
        raise FailedPrecondition("git is not installed", reason="PROGRAM_MISSING", hint="on the host: apt install git")
    if checksum and not _COMMIT.fullmatch(checksum):
        raise InvalidArgument(f"{checksum[:100]!r} is no commit", reason="INVALID_URL")
    place.mkdir(mode=0o755)
    os.chown(place, _NOBODY, _NOBODY)
    checkouts = _Checkouts(local=local, networks=networks)
    try:
        commit = await checkouts.make(place, repository)
        if checksum and not commit.startswith(checksum):
            raise DataLoss(
                f"{without_login(text)[:200]} is commit {commit}, not {checksum}", reason="CHECKSUM_MISMATCH"
            )
        await checkouts.make_submodules(place, repository.url)
    except ShoalError as error:
        if error.reason == "PROGRAM_FAILED":
            said = without_login(f"can't fetch {text[:500]}: {error.message}")
            raise Unavailable(said, reason="URL_UNREACHABLE") from error
        raise
    await asyncio.to_thread(_settled, place, checkouts.made, keep_git_dir=keep_git_dir)
    return commit


class _Checkouts:
    """A repository and its submodules; `made`: their places."""

    def __init__(self, *, local: bool, networks: Sequence[str]) -> None:
        self._local = local
        self._networks = networks
        self.made: list[Path] = []

    async def make(self, place: Path, repository: GitUrl) -> str:
        """Check one out into an empty directory of nobody's; the commit."""
        url = URL(repository.url)
        proxy = (Proxies().of(url) or "") if url.scheme in ("http", "https") else ""
        pinned = [] if self._local else await _pinned(repository.url, self._networks, proxied=bool(proxy))
        git = _Git(place, pinned, proxy)
        await git("init", "--quiet")
        self.made.append(place)
        await git("checkout", "--quiet", "--force", "--detach", await _fetch(git, repository))
        return (await git("rev-parse", "HEAD")).strip()

    async def make_submodules(self, place: Path, url: str, depth: int = 0) -> None:
        """Check out those of the checkout at `place` of `url`, and theirs."""
        git = _Git(place)
        links = gitlinks(await git("ls-tree", "-r", "-d", "-z", "--full-tree", "HEAD"))
        if not links:
            return
        for each in submodules(links, await _gitmodules(git), url):
            if depth == MAX_DEPTH or len(self.made) > MAX_SUBMODULES:
                raise refused(each.path, f"more than {MAX_DEPTH} deep, or more than {MAX_SUBMODULES} submodules")
            try:
                _check_url(each.url)
                await git("config", f"submodule.{each.name}.url", without_login(each.url))
                await self._make_submodule(place, each, depth)
            except ShoalError as error:
                message = f"submodule {each.path}: {error.message}"
                raise type(error)(message, reason=error.reason, metadata=error.metadata) from error

    async def _make_submodule(self, place: Path, each: Submodule, depth: int) -> None:
        inner = await asyncio.to_thread(_empty_directory, place, each.path)
        commit = await self.make(inner, GitUrl(each.url, each.commit))
        if commit != each.commit:
            raise DataLoss(f"{without_login(each.url)} gave commit {commit}", reason="CHECKSUM_MISMATCH")
        await self.make_submodules(inner, each.url, depth + 1)


async def _gitmodules(git: _Git) -> str:
    """What .gitmodules says, as `git config -z --list`; "" without one."""
    entry = await git("ls-tree", "-z", "--full-tree", "HEAD", "--", ".gitmodules")
    if not entry:
        return ""
    if not entry.startswith("100"):
        raise refused(".gitmodules", "that is no regular file")
    return await git("config", "--no-includes", "--blob", "HEAD:.gitmodules", "-z", "--list")


def _empty_directory(place: Path, path: str) -> Path:
    """What git made of a gitlink. Raises InvalidArgument (SUBMODULE_REFUSED) for a symbolic link on the way, too."""
    found = place
    try:
        for part in path.split("/"):
            found = found / part
            if not stat.S_ISDIR(found.lstat().st_mode):
                raise refused(path, "that is no directory of the repository")
    except OSError as error:
        raise refused(path, "that is no directory of the repository") from error
    if any(found.iterdir()):
        raise refused(path, "there are files already")
    return found


async def _fetch(git: _Git, repository: GitUrl) -> str:
    """The commit alone where the server can, else all that leads to it; what to check out."""
    wanted = [repository.ref or "HEAD"]
    by_commit = bool(_WHOLE_COMMIT.fullmatch(repository.ref))
    if repository.ref and not by_commit:
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
                return "FETCH_HEAD"
    assert failure is not None
    if by_commit:
        # Older servers give no commit by its name unless a branch or tag is at it.
        try:
            await git("fetch", "--quiet", "--tags", repository.url, "+refs/heads/*:refs/remotes/origin/*")
            await git("cat-file", "-e", f"{repository.ref}^{{commit}}")
        except ShoalError as error:
            raise failure from error
        return repository.ref
    if "find remote ref" in failure.message:
        raise NotFound(f"{without_login(repository.url)} has no {repository.ref}", reason="REF_NOT_FOUND") from failure
    raise failure


async def _pinned(url: str, networks: Sequence[str], *, proxied: bool = False) -> list[str]:
    """Settings that keep git to an address that is not of the host alone; none where a proxy resolves the name, which
    it may be the only one to know. Raises PermissionDenied (URL_REFUSED), Unavailable (URL_UNREACHABLE)."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if parts.scheme == "git":
        raise PermissionDenied(
            "git:// goes over a channel that anybody can change", reason="URL_REFUSED", hint="write https://"
        )
    refused: list[Subnet] = [*subnets(networks), *await asyncio.to_thread(own_addresses)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        if proxied:
            return []
        raise Unavailable(f"{host} does not resolve: {error.strerror}", reason="URL_UNREACHABLE") from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if any(is_local(address, refused) for address in addresses):
        raise PermissionDenied(
            f"{host} is an address of the host itself", reason="URL_REFUSED", hint="an admin can: --network host"
        )
    if proxied:
        return []
    shown = ",".join(f"[{each}]" if ":" in each else each for each in addresses)
    return [f"http.curloptResolve={host}:{port}:{shown}"]


class _Git:
    """Runs git as nobody in a directory. It asks the `proxy`, or none ("") whatever the environment says: there is one
    reading of NO_PROXY only, by which addresses are pinned or not."""

    def __init__(self, place: Path, settings: Sequence[str] = (), proxy: str = "") -> None:
        self._place = place
        self._proxies = {"http_proxy": proxy, "https_proxy": proxy} if proxy else {}
        self._settings = [word for each in (*_SETTINGS, *settings) for word in ("-c", each)]

    async def __call__(self, *arguments: str) -> str:
        # The directory lies below ones that only root may pass: git sees it in a place of its own.
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSIDE, "sh", str(self._place)]
        nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"]
        env = {
            **self._proxies,
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


def _settled(place: Path, checkouts: Sequence[Path], *, keep_git_dir: bool) -> None:
    """All is root's, as what COPY brings; of git's own directories nothing that tells of this fetch."""
    for checkout in checkouts:
        for name in ("FETCH_HEAD", "logs", "hooks"):
            path = checkout / ".git" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if not keep_git_dir:
            shutil.rmtree(checkout / ".git")
    for directory, directories, files in os.walk(place):
        for name in (".", *directories, *files):
            os.chown(os.path.join(directory, name), 0, 0, follow_symlinks=False)
