"""The manifest of a build's context on this machine, with the digests of files that did not change remembered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shoal.errors import ShoalError
from shoal.manifest import LATEST_S, Entry, encoded
from shoalctl.fleet.context import BuildContext, unreadable
from shoalctl.fleet.localtree import cache_directory, hashed

_HEX = re.compile(r"[0-9a-f]{64}").fullmatch
_SETTLED_S = 2.0
"""A file that was changed in the last moments may change again without its times telling."""
_FORGOTTEN_S = 60 * 24 * 3600.0
"""What was known of a directory that nobody built from for so long is deleted."""


class Content(NamedTuple):
    """A file of a context."""

    path: str
    size: int


class Manifest(NamedTuple):
    """A context without contents: what hosts are told, its digest ("sha256:..."), and where each content is found."""

    data: bytes
    digest: str
    contents: dict[str, Content]
    """By digest, "sha256:..."."""
    skipped: list[str]
    """Sockets and devices, which stay out."""


class SharedManifest:
    """The manifest of a context, made once for all hosts, and again when files have changed."""

    def __init__(self, context: BuildContext) -> None:
        self._context = context
        self._made: Manifest | None = None
        self._making = asyncio.Lock()
        self._failed: ShoalError | None = None

    @property
    def skipped(self) -> Sequence[str]:
        """What the last one leaves out."""
        return self._made.skipped if self._made is not None else ()

    async def get(self, but: Manifest | None = None) -> Manifest:
        """The manifest; a new one where the last is `but`. Raises as `manifest_of`."""
        async with self._making:
            if self._failed is not None:
                raise self._failed  # the next host would find the same, after as long a time
            if self._made is None or self._made is but:
                try:
                    # What did not come as it was said to be may be remembered wrongly: all is read again.
                    self._made = await asyncio.to_thread(manifest_of, self._context, forget=but is not None)
                except ShoalError as error:
                    self._failed = error
                    raise
            return self._made


def manifest_of(context: BuildContext, *, forget: bool = False) -> Manifest:
    """Walk over the context, and read what is not known, or all (blocking).

    Raises FailedPrecondition (CONTEXT_UNREADABLE, FILES_CHANGED)."""
    known = _Known(context.root, forget=forget, kept=context.kept)
    contents: dict[str, Content] = {}
    skipped: list[str] = []
    try:
        data = encoded(_entries(context, known, contents, skipped))
    except UnicodeEncodeError as error:  # half of a surrogate pair, which names on Windows may have
        raise unreadable(ascii(error.object), "its name is no text") from error
    finally:
        known.save()
    return Manifest(data, f"sha256:{hashlib.sha256(data).hexdigest()}", contents, skipped)


def _entries(context: BuildContext, known: _Known, contents: dict[str, Content], skipped: list[str]) -> Iterator[Entry]:
    posix = os.name == "posix"
    first: dict[tuple[int, int], Entry] = {}
    for name, path, found in context.files():
        kind = stat.S_IFMT(found.st_mode)
        mode = found.st_mode & 0o7777 if posix else 0o755
        modified = min(max(found.st_mtime_ns // 10**9, 0), LATEST_S)
        if kind == stat.S_IFREG:
            place = (found.st_dev, found.st_ino)
            if found.st_nlink > 1 and place in first:
                yield first[place]._replace(path=name)
                continue
            digest = known.digest(name, path, found)
            contents[f"sha256:{digest}"] = Content(path, found.st_size)
            entry = Entry(name, "f", mode, modified, found.st_size, digest)
            if found.st_nlink > 1:
                entry = first[place] = entry._replace(inode=len(first) + 1)
            yield entry
        elif kind == stat.S_IFDIR:
            yield Entry(name, "d", mode, modified)
        elif kind == stat.S_IFIFO:
            yield Entry(name, "p", mode, modified)
        elif kind == stat.S_IFLNK:
            try:
                target = os.readlink(path)
            except OSError as error:
                raise unreadable(path, error.strerror or str(error)) from error
            yield Entry(name, "l", mode, modified, link=target.replace(os.sep, "/"))
        else:
            skipped.append(name)


class _Known:
    """Digests of a directory's files by name, valid while size, times and inode are the same. In the user's cache
    directory, which can be deleted at any time."""

    def __init__(self, root: Path, *, forget: bool, kept: bool) -> None:
        self._kept = kept
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self._file = cache_directory() / "contexts" / f"{name}.json"
        self._old = {} if forget else self._load()
        self._new: dict[str, list[int | str]] = {}
        self._settled_ns = int((time.time() - _SETTLED_S) * 1e9)
        self._read = False

    def digest(self, name: str, path: str, found: os.stat_result) -> str:
        """Hex. Raises FailedPrecondition (FILES_CHANGED, CONTEXT_UNREADABLE)."""
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        old = self._old.get(name)
        if old is not None and old[:4] == state:
            self._new[name] = old
            return str(old[4])
        self._read = True
        try:
            digest = hashed(Path(path), found).removeprefix("sha256:")
        except OSError as error:
            raise unreadable(path, error.strerror or str(error)) from error
        if max(found.st_mtime_ns, found.st_ctime_ns) < self._settled_ns:
            self._new[name] = [*state, digest]
        return digest

    def save(self) -> None:
        """Keep what was found out. A cache that can't be written is no error."""
        if not self._kept:
            return
        with contextlib.suppress(OSError):
            if not self._read and self._new.keys() == self._old.keys():
                os.utime(self._file)
                return
            directory = self._file.parent
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as temporary:
                try:
                    json.dump(self._new, temporary, separators=(",", ":"))
                    temporary.close()
                    os.replace(temporary.name, self._file)
                except OSError:
                    os.unlink(temporary.name)
                    raise
            for other in os.scandir(directory):
                if other.stat().st_mtime < time.time() - _FORGOTTEN_S:
                    os.unlink(other.path)

    def _load(self) -> dict[str, list[int | str]]:
        try:
            read = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(read, dict) or not all(map(_is_known, read.values())):
            return {}
        return read


def _is_known(each: object) -> bool:
    return isinstance(each, list) and len(each) == 5 and isinstance(each[4], str) and _HEX(each[4]) is not None
