"""What COPY and ADD copy: sources, wildcards and excludes over the entries of a tree; pure.

Follows the Dockerfile reference (COPY) and BuildKit: a directory gives its contents, a source that is a symbolic link is
followed inside its root, wildcards are Go's filepath.Match, `.dockerignore` patterns exclude.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from shoal.errors import InvalidArgument
from shoal.ignore import Matcher
from shoald.dockerfile.steps import CopyStep, PathSource

HAS_WILDCARD = re.compile(r"[*?\[\\]")


class TreeEntry(Struct, frozen=True, array_like=True):
    """An entry of shoald.host.treescan."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    content: str
    xattrs: dict[str, str]
    inode: int


class CopyItem(Struct, frozen=True):
    """One file to make; see shoald.host.treecopy."""

    source: str
    target: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str
    xattrs: dict[str, str]
    inode: int
    link_group: int = 0
    """Entries with the same number (not 0) are one file; unlike inodes the same on every host."""
    data: str | None = None
    keep_existing: bool = False


class Tree:
    """Entries of one root, by path, with what is in each directory. `roots`: each path that was asked for and what it is
    after symbolic links were followed, None when it does not exist."""

    def __init__(self, entries: Sequence[TreeEntry], roots: Mapping[str, str | None]) -> None:
        self.by_path = {entry.path: entry for entry in entries}
        self.roots = roots
        self._below: dict[str, list[TreeEntry]] = {}
        for entry in entries:
            if entry.path != "/":
                self._below.setdefault(posixpath.dirname(entry.path), []).append(entry)

    def with_roots(self, roots: Mapping[str, str | None]) -> Tree:
        """The same entries for other paths."""
        other = Tree.__new__(Tree)
        other.by_path, other._below, other.roots = self.by_path, self._below, roots
        return other

    def below(self, path: str) -> list[TreeEntry]:
        """All entries below a directory, each directory before what is in it."""
        found: list[TreeEntry] = []
        pending = [path]
        while pending:
            for entry in self._below.get(pending.pop(), ()):
                found.append(entry)
                if entry.kind == "d":
                    pending.append(entry.path)
        return sorted(found, key=lambda entry: entry.path.split("/"))

    def matching(self, pattern: str) -> list[str]:
        """Paths that a pattern with wildcards names, in order."""
        matches = ["/"]
        for part in pattern.strip("/").split("/"):
            if HAS_WILDCARD.search(part):
                regex = component_regex(part)
                matches = [
                    entry.path
                    for path in matches
                    for entry in sorted(self._below.get(path, ()), key=lambda e: e.path)
                    if regex.fullmatch(posixpath.basename(entry.path))
                ]
            else:
                matches = [p for path in matches if (p := path.rstrip("/") + "/" + part) in self.by_path]
        return matches


@lru_cache(maxsize=1024)
def component_regex(pattern: str) -> re.Pattern[str]:
    """One component of Go's filepath.Match as a regular expression. Raises InvalidArgument (BAD_PATTERN)."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not out or out[-1] != "[^/]*":
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", at + (1 if pattern[at : at + 1] == "^" else 0) + 1)
            if end < 0:
                raise InvalidArgument(f"syntax error in pattern {pattern!r}", reason="BAD_PATTERN")
            body = pattern[at:end]
            negate = body.startswith("^")
            inner = re.sub(r"([\[\]&~|^])", r"\\\1", body[1:] if negate else body)
            out.append(f"[{'^' if negate else ''}{inner}]")
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}", reason="BAD_PATTERN") from None


def scan_paths(step: CopyStep) -> list[str]:
    """What must be scanned so that `select` can decide: without wildcards the path, else the directory above the first."""
    paths = []
    for source in step.sources:
        if not isinstance(source, PathSource):
            continue
        if not HAS_WILDCARD.search(source.path):
            paths.append(source.path)
            continue
        fixed = []
        for part in source.path.strip("/").split("/"):
            if HAS_WILDCARD.search(part):
                break
            fixed.append(part)
        paths.append("/" + "/".join(fixed))
    return paths


def select(step: CopyStep, tree: Tree, *, dest_is_directory: bool, mode: int | None) -> list[CopyItem]:
    """Items in the order in which they are to be made. `dest_is_directory`: the destination exists as a directory.

    Raises InvalidArgument (COPY_SOURCE_MISSING).
    """
    items: list[CopyItem] = []
    groups: dict[int, int] = {}
    into = step.dest_is_dir or dest_is_directory
    for source in step.sources:
        assert isinstance(source, PathSource)
        for path in _named(source, tree):
            items += _from_source(step, tree, path, into, groups)
    for file in step.files:
        target = posixpath.join(step.dest, file.name) if into else step.dest
        items.append(
            CopyItem(
                "", target, "f", 0o644, 0, 0, 0, "", {}, 0, data=file.data.encode("utf-8", "surrogateescape").hex()
            )
        )
    if mode is not None:
        items = [_with_mode(item, mode) for item in items]
    return items


def _named(source: PathSource, tree: Tree) -> list[str]:
    wild = HAS_WILDCARD.search(source.path)
    found = tree.matching(source.path) if wild else [p for p in (tree.roots.get(source.path),) if p is not None]
    if not found:
        raise InvalidArgument(
            f'"{source.path}": not found',
            reason="COPY_SOURCE_MISSING",
            hint="is it in the build context, and not excluded by .dockerignore?",
        )
    return found


def _from_source(step: CopyStep, tree: Tree, path: str, into: bool, groups: dict[int, int]) -> list[CopyItem]:
    entry = tree.by_path[path]
    excluded = Matcher(step.exclude).excluded if step.exclude else None
    if entry.kind != "d":
        if excluded and excluded(posixpath.basename(path)):
            return []
        target = posixpath.join(step.dest, posixpath.basename(path)) if into else step.dest
        return [_item(entry, target, groups)]
    # As in BuildKit, a new directory at the destination itself is made afresh, not after the source.
    items = [CopyItem(path, step.dest, "d", 0o755, 0, 0, entry.mtime_ns, "", {}, 0, keep_existing=True)]
    for child in tree.below(path):
        relative = child.path.removeprefix(path.rstrip("/") + "/")
        if excluded and excluded(relative):
            continue
        items.append(_item(child, posixpath.join(step.dest, relative), groups))
    return items


def _item(entry: TreeEntry, target: str, groups: dict[int, int]) -> CopyItem:
    group = groups.setdefault(entry.inode, len(groups) + 1) if entry.inode else 0
    return CopyItem(
        entry.path,
        target,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.content,
        entry.xattrs,
        entry.inode,
        link_group=group,
    )


def _with_mode(item: CopyItem, mode: int) -> CopyItem:
    from msgspec.structs import replace

    return item if item.kind == "l" or item.keep_existing else replace(item, mode=mode)
