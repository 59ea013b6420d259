"""What COPY and ADD copy: sources, wildcards and excludes over the entries of a tree; pure.

Follows the Dockerfile reference (COPY) and BuildKit: a directory gives its contents, a source that is a symbolic link
is followed inside its root, wildcards are Go's filepath.Match, `.dockerignore` patterns exclude.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from shoal.errors import InvalidArgument
from shoal.gopattern import HAS_WILDCARD, pattern_regex
from shoal.ignore import Matcher
from shoald.build.modes import ModeChange
from shoald.dockerfile.steps import ContextBase, CopyStep, PathSource

MAX_LINKS = 40
_SET_ID = 0o6000
_COUNTED = ("/etc/", "/var/spool/")
_WORTH_LINKING = 100


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
    named: bool = False
    """A source by itself, not found inside of a directory: what ADD unpacks."""


class Tree:
    """Entries of one root, by path, with what is in each directory. `roots`: each path that was asked for and what it
    is after symbolic links were followed, None when it does not exist."""

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

    def united(self, other: Tree) -> Tree:
        """The entries and roots of both, which are of one file system."""
        return Tree(list((self.by_path | other.by_path).values()), {**self.roots, **other.roots})

    def followed(self, path: str) -> str | None:
        """What the entry `path` is after symbolic links; None when that does not exist or is not among the entries."""
        if path in self.roots:
            return self.roots[path]
        pending, at = path.strip("/").split("/")[::-1], "/"
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = posixpath.dirname(at)
                continue
            there = posixpath.join(at, part)
            entry = self.by_path.get(there)
            if entry is None or entry.kind != "l":
                at = there
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            pending += entry.content.split("/")[::-1]
            at = "/" if entry.content.startswith("/") else at
        return at if at in self.by_path else None

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

    def inside(self, path: str) -> Sequence[TreeEntry]:
        """What is directly in a directory, by name."""
        return sorted(self._below.get(path, ()), key=lambda entry: entry.path)

    def matching(self, pattern: str) -> list[str]:
        """Paths that a pattern with wildcards names, in order. Its beginning without wildcards is one of the roots and
        may be a symbolic link; nothing else is followed."""
        fixed, rest = split_pattern(pattern)
        base = self.roots.get(fixed)
        matches = [] if base is None else [base]
        for part in rest:
            regex = pattern_regex(part)
            matches = [
                entry.path
                for path in matches
                for entry in sorted(self._below.get(path, ()), key=lambda e: e.path)
                if regex.fullmatch(posixpath.basename(entry.path))
            ]
        return matches


def split_pattern(pattern: str) -> tuple[str, list[str]]:
    """The directory above the first component with a wildcard, and the components from there."""
    parts = pattern.strip("/").split("/")
    first = next((at for at, part in enumerate(parts) if HAS_WILDCARD.search(part)), len(parts))
    return "/" + "/".join(parts[:first]), parts[first:]


def scan_paths(step: CopyStep) -> list[str]:
    """What must be scanned so that `select` can decide: without wildcards the path, else the directory above the
    first."""
    paths = [source.path for source in step.sources if isinstance(source, PathSource)]
    return [split_pattern(path)[0] if HAS_WILDCARD.search(path) else path for path in paths]


def links_to_scan(step: CopyStep, tree: Tree) -> list[str]:
    """Symbolic links that wildcards name and that lead to something that was not scanned; scan these paths too."""
    return [
        path
        for source in step.sources
        if isinstance(source, PathSource) and HAS_WILDCARD.search(source.path)
        for path in tree.matching(source.path)
        if path not in tree.roots and tree.followed(path) is None
    ]


def select(step: CopyStep, tree: Tree, *, dest_is_directory: bool, mode: ModeChange | None) -> list[CopyItem]:
    """Items in the order in which they are to be made. `dest_is_directory`: the destination exists as a directory.

    Raises InvalidArgument (COPY_SOURCE_MISSING, BAD_PATTERN).
    """
    items: list[CopyItem] = []
    into = step.dest_is_dir or dest_is_directory
    for source in step.sources:
        if not isinstance(source, PathSource):
            continue
        for name, path in _named(source, tree):
            items += _from_source(step, tree, name, path, posixpath.join(step.dest, name) if into else step.dest)
    for file in step.files:
        target = posixpath.join(step.dest, file.name) if into else step.dest
        data = file.data.encode("utf-8", "surrogateescape")
        # The digest stands for the content in keys, and tells apart a file from an empty one.
        digest = hashlib.sha256(data).hexdigest()
        items.append(CopyItem("", target, "f", 0o644, 0, 0, 0, digest, {}, 0, data=data.hex()))
    return finished(step, items, mode)


def finished(step: CopyStep, items: Sequence[CopyItem], mode: ModeChange | None) -> list[CopyItem]:
    """The items with the owner and modes that the step gives them, and their links numbered."""
    if isinstance(step.base, ContextBase):
        items = [replace(item, uid=0, gid=0) for item in items]
    if mode is not None:
        items = [_with_mode(item, mode) for item in items]
    return _grouped(items)


def clamped(items: Sequence[CopyItem], latest_ns: int | None) -> list[CopyItem]:
    """The items, none of them later than that. So no file is shared whose time would have to be changed."""
    return [
        replace(item, mtime_ns=latest_ns) if latest_ns is not None and item.mtime_ns > latest_ns else item
        for item in items
    ]


def linkable(items: Sequence[CopyItem]) -> set[int]:
    """Numbers of files that may become another name of their source: not hard links, and for a place of their own.

    Only where it pays, and not where programs look at the number of names: cron, for one, takes no file with several.
    """
    places = Counter(item.target for item in items)
    found = {
        number
        for number, item in enumerate(items)
        if item.kind == "f" and item.data is None and not item.inode and places[item.target] == 1
        if not item.mode & _SET_ID and not item.target.startswith(_COUNTED)
    }
    return found if len(found) >= _WORTH_LINKING else set()


def _named(source: PathSource, tree: Tree) -> list[tuple[str, str]]:
    """(name, path) of what a source stands for: a symbolic link is followed, but keeps its own name, as in BuildKit. A
    wildcard that nothing matches is no error there either."""
    wild = HAS_WILDCARD.search(source.path)
    named = tree.matching(source.path) if wild else [source.path]
    found = [(posixpath.basename(name), tree.followed(name) if wild else tree.roots.get(name)) for name in named]
    missing = [name for name, (_, path) in zip(named, found, strict=True) if path is None]
    if missing:
        raise InvalidArgument(
            f'"{missing[0]}": not found',
            reason="COPY_SOURCE_MISSING",
            hint="is it in the build context, and not excluded by .dockerignore?",
        )
    return [(name, path) for name, path in found if path is not None]


def _from_source(step: CopyStep, tree: Tree, name: str, path: str, target: str) -> list[CopyItem]:
    entry = tree.by_path[path]
    excluded = Matcher(step.exclude).excluded if step.exclude else None
    if entry.kind != "d":
        return [] if excluded and excluded(name) else [item_of(entry, target, named=True)]
    # As in BuildKit, a new directory at the destination itself is made afresh, not after the source.
    items = [CopyItem(path, step.dest, "d", 0o755, 0, 0, entry.mtime_ns, "", {}, 0, keep_existing=True)]
    left_out: dict[str, TreeEntry] = {}
    for child in tree.below(path):
        relative = child.path.removeprefix(path.rstrip("/") + "/")
        if excluded and excluded(relative):
            if child.kind == "d":
                left_out[relative] = child
            continue
        # A directory that is left out is made all the same for what an exception ("!") takes from it.
        for above in _above(relative):
            if above in left_out:
                items.append(item_of(left_out.pop(above), posixpath.join(step.dest, above)))
        items.append(item_of(child, posixpath.join(step.dest, relative)))
    return items


def _above(relative: str) -> list[str]:
    parts = relative.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def item_of(entry: TreeEntry, target: str, *, named: bool = False) -> CopyItem:
    """A file as its entry has it, to be made at `target`."""
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
        named=named,
    )


def _grouped(items: Sequence[CopyItem]) -> list[CopyItem]:
    """Number the files that are one file. Links to files outside of the selection do not count."""
    counts = Counter(item.inode for item in items if item.inode)
    groups: dict[int, int] = {}
    return [
        replace(item, link_group=groups.setdefault(item.inode, len(groups) + 1))
        if counts[item.inode] > 1
        else replace(item, inode=0)
        if item.inode
        else item
        for item in items
    ]


def _with_mode(item: CopyItem, mode: ModeChange) -> CopyItem:
    if item.kind == "l" or item.keep_existing:
        return item
    return replace(item, mode=mode.apply(item.mode, directory=item.kind == "d"))
