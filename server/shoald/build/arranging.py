"""Lays out the files of a context: of one that is there already, and of blobs. Blocking.

All paths are those of a checked manifest, below a directory that nobody else writes to.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from shoald.build.selection import TreeEntry
from shoald.host.filecopy import copy_content


class Arranging:
    """`old` are the entries of `base`, a context's files; `blob` finds the file of a digest ("sha256:...")."""

    def __init__(
        self, root: Path, old: Sequence[TreeEntry], base: Path | None, blob: Callable[[str], Path | None]
    ) -> None:
        self._root = str(root)
        self._base = str(base) if base is not None else None
        self._blob = blob
        self._old = {entry.path: entry for entry in old}
        self._used: list[str] = []
        self._wanted: Counter[str] = Counter()
        self._links: dict[int, str] = {}
        self._elsewhere: dict[str, str] = {}

    def arrange(self, entries: Sequence[TreeEntry], *, change: bool) -> list[str]:
        """Make `entries` below the root. `change`: the base's files are there, and are changed. The blobs that were
        moved into place. Raises OSError."""
        new = {entry.path: entry for entry in entries}
        kept = self._kept(new) if change else set()
        wanted = {entry.content for entry in entries if entry.kind == "f" and entry.path not in kept}
        found = {entry.content: path for path, entry in self._old.items() if entry.content in wanted}
        if change:
            self._spare(found)
            self._clear(kept)
        elif self._base is not None:
            self._elsewhere = {content: self._base + path for content, path in found.items()}
        todo = [entry for entry in entries if entry.path not in kept]
        firsts = {entry.inode: entry.path for entry in reversed(todo) if entry.inode}
        self._wanted.update(
            entry.content for entry in todo if entry.kind == "f" and firsts.get(entry.inode, entry.path) == entry.path
        )
        for entry in todo:
            self._make(entry)
        if change:
            for path in self._elsewhere.values():
                os.unlink(path)
        for entry in reversed(entries):
            if entry.kind == "d":
                self._finish_directory(entry)
        return self._used

    # --- what is there ----------------------------------------------------------------------------------------------

    def _kept(self, new: dict[str, TreeEntry]) -> set[str]:
        """Paths that stay as they are: equal entries (a file with several names is made again), and directories."""
        return {
            path
            for path, entry in self._old.items()
            if (other := new.get(path)) is not None
            and (other.kind == "d" if entry.kind == "d" else other == entry and not entry.inode)
        }

    def _spare(self, found: dict[str, str]) -> None:
        """A second name for files that may go, but whose content another entry wants."""
        for content, path in found.items():
            place = os.path.join(os.path.dirname(self._root), f"spare-{content}")
            os.link(self._root + path, place)
            self._elsewhere[content] = place

    def _clear(self, kept: set[str]) -> None:
        for path in sorted(self._old.keys() - kept, reverse=True):
            if self._old[path].kind == "d":
                os.rmdir(self._root + path)
            else:
                os.unlink(self._root + path)

    # --- what comes -------------------------------------------------------------------------------------------------

    def _make(self, entry: TreeEntry) -> None:
        at = self._root + entry.path
        if entry.kind == "d":
            os.mkdir(at, 0o700)
        elif entry.kind == "l":
            os.symlink(entry.content, at)
            os.utime(at, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        elif entry.kind == "p":
            os.mkfifo(at, 0o600)
            os.chmod(at, entry.mode)
            os.utime(at, ns=(entry.mtime_ns, entry.mtime_ns))
        elif entry.inode and entry.inode in self._links:
            os.link(self._links[entry.inode], at)
        else:
            self._file(entry, at)
            if entry.inode:
                self._links[entry.inode] = at

    def _file(self, entry: TreeEntry, at: str) -> None:
        self._wanted[entry.content] -= 1
        apart = self._base is not None and self._base != self._root
        if apart and not entry.inode and self._old.get(entry.path) == entry:
            os.link(f"{self._base}{entry.path}", at)
            return
        digest = f"sha256:{entry.content}"
        blob = self._blob(digest)
        if blob is not None and not self._wanted[entry.content]:
            os.rename(blob, at)
            self._used.append(digest)
        else:
            _copy(str(blob) if blob is not None else self._elsewhere.get(entry.content, at), at)
        os.chmod(at, entry.mode)
        os.utime(at, ns=(entry.mtime_ns, entry.mtime_ns))

    def _finish_directory(self, entry: TreeEntry) -> None:
        at = self._root + entry.path
        os.chmod(at, entry.mode)
        os.utime(at, ns=(entry.mtime_ns, entry.mtime_ns))


def _copy(source: str, at: str) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            copy_content(reading, fd)
        finally:
            os.close(fd)
    finally:
        os.close(reading)
