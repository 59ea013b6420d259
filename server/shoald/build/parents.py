"""`COPY --parents`: what a pattern names, with the directories that lead to it; pure.

Dockerfile reference, COPY --parents: the part of the source after `/./` (or all of it) is kept below the destination;
wildcards may be in any component, and `**` stands for any number of them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from shoal.errors import InvalidArgument
from shoal.gopattern import HAS_WILDCARD, pattern_regex
from shoal.ignore import Matcher
from shoald.build.selection import CopyItem, Tree, item_of
from shoald.dockerfile.steps import CopyStep, PathSource


def select_with_parents(step: CopyStep, tree: Tree) -> list[CopyItem]:
    """Items in the order in which they are to be made, each once. Raises InvalidArgument (COPY_SOURCE_MISSING)."""
    made: dict[str, CopyItem] = {}
    for source in step.sources:
        assert isinstance(source, PathSource)
        wild = HAS_WILDCARD.search(source.path)
        found = tree.matching(source.path) if wild else [tree.roots.get(source.path)]
        parts = [part for part in (source.pattern or "").split("/") if part not in ("", ".")]
        matched = False
        for root in found:
            if root is None:
                raise _missing(source.path)
            for path in sorted(set(_matching(tree, root, parts))):
                matched = True
                for item in _with_parents(step, tree, root, path):
                    made.setdefault(item.target, item)
        if not matched and not wild and not any(HAS_WILDCARD.search(part) for part in parts):
            raise _missing(posixpath.join(source.path, *parts))
    return list(made.values())


def _with_parents(step: CopyStep, tree: Tree, root: str, path: str) -> Iterator[CopyItem]:
    prefix = root.rstrip("/") + "/"
    relative = path.removeprefix(prefix) if path != root else ""
    excluded = Matcher(step.exclude).excluded if step.exclude else None
    if excluded and relative and excluded(relative):
        return
    parts = relative.split("/") if relative else []
    for end in range(1, len(parts)):
        above = prefix + "/".join(parts[:end])
        yield item_of(tree.by_path[above], posixpath.join(step.dest, *parts[:end]))
    entry = tree.by_path[path]
    if relative:
        yield item_of(entry, posixpath.join(step.dest, relative))
    if entry.kind == "d":
        for child in tree.below(path):
            if excluded and excluded(child.path.removeprefix(prefix)):
                continue
            yield item_of(child, posixpath.join(step.dest, child.path.removeprefix(prefix)))


def _matching(tree: Tree, at: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths that the rest of a pattern names below `at`; symbolic links are not followed."""
    if not parts:
        yield at
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        yield from _matching(tree, at, rest)
        for entry in tree.inside(at):
            if entry.kind == "d":
                yield from _matching(tree, entry.path, parts)
            elif not rest:
                yield entry.path
        return
    if not HAS_WILDCARD.search(first):
        path = posixpath.join(at, first)
        if path in tree.by_path:
            yield from _matching(tree, path, rest)
        return
    regex = pattern_regex(first)
    for entry in tree.inside(at):
        if regex.fullmatch(posixpath.basename(entry.path)):
            yield from _matching(tree, entry.path, rest)


def _missing(path: str) -> InvalidArgument:
    return InvalidArgument(
        f'"{path}": not found',
        reason="COPY_SOURCE_MISSING",
        hint="is it in the build context, and not excluded by .dockerignore?",
    )
