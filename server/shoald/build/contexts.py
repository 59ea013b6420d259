"""Contexts of builds that the host keeps: `<root>/<hex>/files` and `entries`, named by the digest of their manifest.

A context that is whole has its name; what is being made, or is going, begins with a dot. A new one is made of the most
similar one that is here: that one is changed where no build uses it, and shares its files by hard links where one does.
Only builds and this module look into them; nothing ever writes into a file that is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import structlog

from shoal import manifest
from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, NotFound, ShoalError
from shoal.manifest import Entry
from shoald.build.arranging import Arranging
from shoald.build.selection import Tree, TreeEntry
from shoald.files.store import ContentTrees
from shoald.host.blocking import in_thread, to_end
from shoald.host.boot import is_same_boot, note_boot
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree, tree_size
from shoald.model.buildcache import CacheKind, CacheRecord

log = structlog.get_logger(__name__)

KEPT = timedelta(days=7)
"""How long a context that no build uses is kept."""
_ENTRIES, _BOOT = "entries", ".boot"
_LOOKED_AT = 4
"""So many of the latest are looked at for one that is similar."""


class HeldContext:
    """A context for the time of a build: its digest, its directory, and its entries as COPY selects from."""

    def __init__(self, digest: str, root: Path, load: Callable[[], list[TreeEntry]]) -> None:
        self.digest = digest
        self.root = root
        self._load = load
        self._tree: asyncio.Task[Tree] | None = None

    async def tree(self) -> Tree:
        """All that is in it; loaded when first asked for."""
        if self._tree is None:
            self._tree = asyncio.ensure_future(in_thread(self._loaded))
        return await asyncio.shield(self._tree)

    def _loaded(self) -> Tree:
        root = TreeEntry("/", "d", 0o755, 0, 0, 0, 0, "", {}, 0)
        with translated("read context"):
            return Tree([root, *self._load()], {"/": "/"})


class _Base:
    """A context that is here, for one that is to be made."""

    def __init__(self, name: str, entries: Sequence[TreeEntry]) -> None:
        self.name = name
        self.entries = entries
        self.contents = frozenset(entry.content for entry in entries if entry.kind == "f")


class Contexts:
    """See above. Blobs that `files` holds become files of contexts."""

    def __init__(self, root: Path, files: ContentTrees) -> None:
        self._root = root
        self._files = files
        self._in_use: Counter[str] = Counter()
        self._making: dict[str, asyncio.Lock] = {}
        with translated("make directory", root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- use --------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def taken(self, digest: str) -> AsyncIterator[HeldContext]:
        """The context, made of what was sent where it is not here yet. Raises FailedPrecondition (CONTEXT_MISSING)."""
        name = Digest.parse(digest).hex
        self._in_use[name] += 1
        try:
            async with self._making.setdefault(name, asyncio.Lock()):
                if not (self._root / name).is_dir():
                    await to_end(self._make(name))
            with translated("use context"):
                os.utime(self._root / name)
            yield HeldContext(digest, self._root / name / "files", functools.partial(self._entries, name))
        finally:
            self._release(name)
            if name not in self._in_use:
                self._making.pop(name, None)

    def holds(self, digest: str) -> bool:
        """Whether it is here as a whole."""
        return (self._root / Digest.parse(digest).hex).is_dir()

    @contextlib.asynccontextmanager
    async def described(self, digest: str, root: Path) -> AsyncIterator[HeldContext]:
        """A context for questions about it. One that is not here is told by its manifest, and `root` is not there.

        Raises FailedPrecondition (CONTEXT_MISSING), InvalidArgument (INVALID_MANIFEST).
        """
        name = Digest.parse(digest).hex
        if not self.holds(digest):
            entries = await self._manifest(name)
            yield HeldContext(digest, root, lambda: entries)
            return
        self._in_use[name] += 1
        try:
            yield HeldContext(digest, self._root / name / "files", functools.partial(self._entries, name))
        finally:
            self._release(name)

    async def missing(self, digest: str) -> list[str]:
        """Digests of the contents that must still be sent, once the manifest is here.

        Raises FailedPrecondition (CONTEXT_MISSING) before that, InvalidArgument (INVALID_MANIFEST).
        """
        name = Digest.parse(digest).hex
        if (self._root / name).is_dir():
            return []
        entries = await self._manifest(name)
        wanted = dict.fromkeys(entry.content for entry in entries if entry.kind == "f")
        base = await in_thread(functools.partial(self._similar, entries))
        held = base.contents if base else frozenset()
        return await self._files.lacking([f"sha256:{each}" for each in wanted if each not in held])

    # --- making -----------------------------------------------------------------------------------------------------

    async def _manifest(self, name: str) -> list[TreeEntry]:
        digest = f"sha256:{name}"
        if self._files.missing([digest]):
            raise missing_context(digest)
        try:
            data = await in_thread(functools.partial(self._files.read, digest, manifest.MAX_BYTES))
        except (DataLoss, NotFound) as error:  # damaged on the disk: the client can send it again
            self._files.forget(digest)
            raise missing_context(digest) from error
        return await in_thread(lambda: [_tree_entry(entry) for entry in manifest.parsed(data)])

    async def _make(self, name: str) -> None:
        entries = await self._manifest(name)
        base = await in_thread(functools.partial(self._similar, entries))
        held = base.contents if base else frozenset()
        wanted = dict.fromkeys(entry.content for entry in entries if entry.kind == "f" and entry.content not in held)
        lacking = await self._files.lacking([f"sha256:{each}" for each in wanted])
        # No await from here until the base is claimed: nobody takes it up, or away.
        if lacking or (base is not None and not (self._root / base.name).is_dir()):
            raise missing_context(f"sha256:{name}")
        place = self._root / f".new-{secrets.token_hex(8)}"
        change = base is not None and base.name not in self._in_use
        if base is not None and change:
            with translated("change context"):
                os.rename(self._root / base.name, place)
        elif base is not None:
            self._in_use[base.name] += 1
        try:
            used = await in_thread(functools.partial(self._arrange, name, place, entries, base, change))
            with translated("store context"):
                os.rename(place, self._root / name)
            await self._files.consumed(used)
            self._files.forget(f"sha256:{name}")
        except BaseException:
            if place.exists():
                await in_thread(functools.partial(remove_tree, place))
            raise
        finally:
            if base is not None and not change:
                self._release(base.name)

    def _arrange(
        self, name: str, place: Path, entries: Sequence[TreeEntry], base: _Base | None, change: bool
    ) -> list[str]:
        """Blocking. The blobs that became files."""
        try:
            with translated("store context"):
                place.mkdir(mode=0o700, exist_ok=change)
                files = place / "files"
                files.mkdir(mode=0o755, exist_ok=change)
                old = base.entries if base else ()
                source = files if change else self._root / base.name / "files" if base else None
                used = Arranging(files, old, source, self._files.blob).arrange(entries, change=change)
                (place / _ENTRIES).unlink(missing_ok=True)
                (place / _ENTRIES).write_bytes(_packed(entries))
        except NotFound as error:  # another context took a blob away
            raise missing_context(f"sha256:{name}") from error
        return used

    def _similar(self, entries: Sequence[TreeEntry]) -> _Base | None:
        """Of the latest contexts the one that shares most files, if that is more than a few. Blocking."""
        wanted = {(entry.path, entry.content) for entry in entries if entry.kind == "f"}
        best: _Base | None = None
        most = len(wanted) // 4
        latest = sorted(self._names(), key=self._used_at, reverse=True)
        for name in latest[:_LOOKED_AT]:
            with contextlib.suppress(OSError, ValueError):
                found = self._entries(name)
                shared = sum((entry.path, entry.content) in wanted for entry in found)
                if shared > most:
                    best, most = _Base(name, found), shared
        return best

    def _entries(self, name: str) -> list[TreeEntry]:
        return _unpacked((self._root / name / _ENTRIES).read_bytes())

    def _release(self, name: str) -> None:
        self._in_use[name] -= 1
        if not self._in_use[name]:
            del self._in_use[name]

    # --- what there is ----------------------------------------------------------------------------------------------

    def records(self) -> list[CacheRecord]:
        """All contexts with their sizes. Blocking."""
        found = []
        for name in self._names():
            with contextlib.suppress(FileNotFoundError, ShoalError):
                used = self._used_at(name)
                found.append(
                    CacheRecord(
                        id=name,
                        kind=CacheKind.CONTEXT,
                        description="build context",
                        size_bytes=tree_size(self._root / name).apparent,
                        created_at=datetime.fromtimestamp((self._root / name / _ENTRIES).stat().st_mtime, UTC),
                        last_used_at=datetime.fromtimestamp(used, UTC),
                        in_use=name in self._in_use,
                    )
                )
        return found

    async def remove(self, name: str) -> bool:
        """Delete one that no build uses; whether it went."""
        if name in self._in_use or name not in self._names():
            return False
        gone = self._root / f".gone-{secrets.token_hex(8)}"
        # No await before the rename: a build that comes now finds no context and asks for it.
        os.rename(self._root / name, gone)
        await asyncio.shield(asyncio.to_thread(remove_tree, gone))
        return True

    async def collect(self, kept: timedelta = KEPT) -> int:
        """Remove those that no build has used for so long; how many."""
        before = (datetime.now(UTC) - kept).timestamp()
        old = [name for name in self._names() if self._used_at(name) < before]
        return sum([await self.remove(name) for name in old])

    async def collect_forever(self, every_s: float = 3600.0) -> None:
        """Collect from time to time, until cancelled."""
        while True:
            try:
                await self.collect()
            except (ShoalError, OSError) as error:
                log.error("contexts_not_collected", error=str(error))
            await asyncio.sleep(every_s)

    def sweep(self) -> None:
        """Remove what an earlier daemon left half-made or half-removed. Blocking; at start.

        Files of contexts are never synced: after a crash of the host they may not hold what their digests say, so that
        none outlives a boot.
        """
        same = is_same_boot(self._root / _BOOT)
        for name in os.listdir(self._root):
            if name != _BOOT and (name.startswith(".") or not same):
                remove_tree(self._root / name)
        note_boot(self._root / _BOOT)

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self._root) if not name.startswith("."))

    def _used_at(self, name: str) -> float:
        try:
            return (self._root / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _tree_entry(entry: Entry) -> TreeEntry:
    content = entry.digest or entry.link
    return TreeEntry(
        "/" + entry.path, entry.kind, entry.mode, 0, 0, entry.size, entry.time * 10**9, content, {}, entry.inode
    )


def _packed(entries: Sequence[TreeEntry]) -> bytes:
    try:
        return b"M" + msgspec.msgpack.encode(entries)
    except UnicodeEncodeError:  # a name that is not UTF-8: only the slower way has room for it
        return b"J" + json.dumps([msgspec.structs.astuple(entry) for entry in entries]).encode()


def _unpacked(data: bytes) -> list[TreeEntry]:
    if data[:1] == b"J":
        return [TreeEntry(*fields) for fields in json.loads(data[1:])]
    return msgspec.msgpack.decode(data[1:], type=list[TreeEntry])


def missing_context(digest: str) -> FailedPrecondition:
    """The error for a context that a client has to send."""
    return FailedPrecondition(
        "this host does not have the build's context",
        reason="CONTEXT_MISSING",
        hint="send its manifest and the files that PrepareContext names with FileService.Put",
        metadata={"digest": digest},
    )
