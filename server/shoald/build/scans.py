"""What was found in snapshots before: they never change, and files of a stage are looked at in each build."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from shoald.build import trees
from shoald.build.selection import Tree
from shoald.dockerfile.steps import CopyStep

_MOST = 50_000
"""Entries that are kept, of all trees together; about 20 MB."""


class Scans:
    """Trees by snapshot and sources; the least recently used go first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Tree] = OrderedDict()
        self._entries = 0

    async def sources(self, snapshot_id: str, root: Path, step: CopyStep) -> Tree:
        """As `trees.scan_sources` of the snapshot, which is mounted at `root`; "" is one that nothing is known of."""
        key = (snapshot_id, repr(step.sources))
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        tree = await trees.scan_sources(root, step)
        if snapshot_id and len(tree.by_path) <= _MOST:
            replaced = self._known.pop(key, None)  # another stage may have been as quick
            self._known[key] = tree
            self._entries += len(tree.by_path) - (len(replaced.by_path) if replaced else 0)
            while self._entries > _MOST:
                self._entries -= len(self._known.popitem(last=False)[1].by_path)
        return tree
