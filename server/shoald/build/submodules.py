"""Submodules of a git repository: what its tree and its .gitmodules say, and what of that is refused; pure.

Whoever writes a repository writes all of it, so nothing here is taken on trust: gitmodules(5) for the format, and
CVE-2018-11235, CVE-2018-17456 and CVE-2025-48384 for what became of names, addresses and paths elsewhere.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from shoal.errors import InvalidArgument

MAX_DEPTH = 10
MAX_SUBMODULES = 500
"""Of one ADD, at all depths together."""
_UPDATES = ("", "checkout", "merge", "rebase")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f\ufffd]")


class Submodule(Struct, frozen=True):
    """A repository to check out at `path` of another."""

    name: str
    path: str
    url: str
    commit: str


def gitlinks(listing: str) -> dict[str, str]:
    """The commit by path, of what `git ls-tree -r -d -z` prints."""
    found = {}
    for line in listing.split("\0"):
        about, _, path = line.partition("\t")
        if about.startswith("160000 "):
            found[path] = about.rpartition(" ")[2]
    return found


def submodules(links: dict[str, str], settings: str, parent: str) -> list[Submodule]:
    """Those of a tree with these gitlinks, of what `git config -z --list` prints of its .gitmodules. `parent`: the
    repository's own URL.

    Raises InvalidArgument (SUBMODULE_REFUSED).
    """
    sections = _sections(settings)
    # As in git, the first section that names a path counts.
    by_path = {section["path"]: name for name, section in reversed(sections.items()) if "path" in section}
    found = []
    for path, commit in links.items():
        check_path(path)
        name = by_path.get(path, "")
        section = sections.get(name, {})
        if not section.get("url"):
            raise refused(path, ".gitmodules has no URL for it")
        update = section.get("update", "")
        if update == "none":
            continue
        if update not in _UPDATES:
            raise refused(path, f"its update {update[:100]!r} is a command")
        _check_name(name, path)
        found.append(Submodule(name, path, _resolved(section["url"], parent, path), commit))
    return found


def check_path(path: str) -> None:
    """Refuse what leads out of a tree, into git's own directory, or is not what it looks like. Raises InvalidArgument
    (SUBMODULE_REFUSED)."""
    parts = path.split("/")
    if _UNSEEN.search(path) or path.startswith("-") or path != path.strip():
        raise refused(path, "that is no plain path")
    if any(part in ("", ".", "..") for part in parts):
        raise refused(path, "that is no path in the repository")
    if any(part.rstrip(" .").lower() == ".git" for part in parts):
        raise refused(path, "that is a path of git's own")


def refused(path: str, why: str) -> InvalidArgument:
    """The error for a submodule."""
    return InvalidArgument(f"submodule {path[:200]!r}: {why}", reason="SUBMODULE_REFUSED")


def without_login(url: str) -> str:
    """A URL as it may be shown and kept."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _sections(settings: str) -> dict[str, dict[str, str]]:
    """The settings of each submodule by its name; the first value counts."""
    found: dict[str, dict[str, str]] = {}
    for line in settings.split("\0"):
        key, _, value = line.partition("\n")
        name, _, variable = key.removeprefix("submodule.").rpartition(".")
        if key.startswith("submodule.") and name:
            found.setdefault(name, {}).setdefault(variable, value)
    return found


def _check_name(name: str, path: str) -> None:
    if _UNSEEN.search(name) or name.startswith("-") or ".." in re.split(r"[/\\]", name):
        raise refused(path, f"its name {name[:100]!r} is no plain name")


def _resolved(url: str, parent: str, path: str) -> str:
    """A URL that begins with ./ or ../ is relative to the parent's, of which the host stays."""
    if not url.startswith(("./", "../")):
        return url
    parts = urlsplit(parent)
    base, rest = parts.path.rstrip("/"), url
    while rest.startswith(("./", "../")):
        step, _, rest = rest.partition("/")
        if step == ".":
            continue
        if not base:
            raise refused(path, f"{url[:100]!r} leads out of {parts.hostname}")
        base = base.rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, f"{base}/{rest}".rstrip("/"), "", ""))
