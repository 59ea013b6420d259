"""Files of this machine as a tree that hosts can be given: what there is, and the digest of each file.

Directories, regular files and symbolic links (as links: nothing is followed but the path itself), with permission bits
and times. Sockets, FIFOs and devices stay out and are named in `skipped`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import FailedPrecondition, NotFound, ResourceExhausted

MAX_ENTRIES = 10_000
MAX_FILE_BYTES = 1 << 30
MAX_TREE_BYTES = 4 << 30
_CHUNK = 1 << 20
_PERMISSIONS = 0o777
_SETTLED_S = 2.0
"""A file that was changed in the last moments may change again without its times telling."""
_MAX_CACHED = 50_000
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
READ = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """One file, directory (neither digest nor link) or symbolic link. `path` is "" for the root."""

    path: str
    mode: int
    modified_ns: int
    digest: str = ""
    size: int = 0
    link: str = ""


class HashCache:
    """Digests of files by device, inode, size and times; kept in `~/.cache/shoal`, which can be deleted at any time."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or cache_directory() / "hashes.json"
        self._known: dict[str, str] | None = None
        self._used: dict[str, str] = {}

    def digest(self, path: Path, found: os.stat_result) -> str:
        """The digest of a regular file, read only if it is not known. Raises FailedPrecondition (FILES_CHANGED)."""
        key = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
        if self._known is None:
            self._known = self._load()
        digest = self._known.get(key) or hashed(path, found)
        if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_S:
            self._used[key] = self._known[key] = digest
        return digest

    def save(self) -> None:
        """Keep what was found out. A cache that can't be written is no error."""
        if not self._used:
            return
        merged = {**self._load(), **self._used}
        kept = dict(list(merged.items())[-_MAX_CACHED:])
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False) as temporary:
                json.dump(kept, temporary)
            os.replace(temporary.name, self._file)
        self._used = {}

    def _load(self) -> dict[str, str]:
        try:
            read = json.loads(self._file.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(key): str(value) for key, value in read.items()} if isinstance(read, dict) else {}


@dataclass(slots=True)
class LocalTree:
    """A path of this machine; `scan` it before use. `file_mode`: the mode of the one file that it is (0: its own)."""

    path: Path
    cache: HashCache
    file_mode: int = 0
    entries: list[LocalEntry] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def scan(self) -> bool:
        """Find out what there is (blocking); whether it is another tree than before.

        Raises NotFound (NO_SUCH_FILE), FailedPrecondition (FILES_UNREADABLE, FILES_CHANGED), ResourceExhausted
        (TOO_MANY_FILES, FILE_TOO_LARGE).
        """
        skipped: list[str] = []
        try:
            entries = list(self._walk(skipped))
        except FileNotFoundError as error:
            if not self.path.exists():
                raise missing(str(self.path)) from error
            raise changed(str(error.filename)) from error
        except OSError as error:
            raise FailedPrecondition(
                f"can't read {error.filename}: {error.strerror}", reason="FILES_UNREADABLE"
            ) from error
        if sum(entry.size for entry in entries) > MAX_TREE_BYTES:
            raise _too_large(f"{self.path} holds more than {MAX_TREE_BYTES >> 30} GiB")
        different = entries != self.entries
        self.entries, self.skipped = entries, skipped
        return different

    def _walk(self, skipped: list[str]) -> Iterator[LocalEntry]:
        found = os.stat(self.path)
        if stat.S_ISREG(found.st_mode):
            mode = self.file_mode or stat.S_IMODE(found.st_mode) & _PERMISSIONS
            # By the name that it leads to, so that reading it follows no link.
            yield self._file(Path(os.path.realpath(self.path)), "", found, mode)
            return
        if not stat.S_ISDIR(found.st_mode):
            raise FailedPrecondition(f"{self.path} is neither a file nor a directory", reason="FILES_UNREADABLE")
        count = 1
        yield LocalEntry("", stat.S_IMODE(found.st_mode) & _PERMISSIONS, found.st_mtime_ns)
        pending = [""]
        while pending:
            directory = pending.pop()
            with os.scandir(self.path / directory) as listing:
                names = sorted(entry.name for entry in listing)
            for name in names:
                count += 1
                if count > MAX_ENTRIES:
                    raise _too_large(f"{self.path} holds more than {MAX_ENTRIES} files", "TOO_MANY_FILES")
                relative = f"{directory}/{name}" if directory else name
                entry = self._entry(relative)
                if entry is None:
                    skipped.append(relative)
                    continue
                yield entry
                if not entry.digest and not entry.link:
                    pending.append(relative)

    def _entry(self, relative: str) -> LocalEntry | None:
        path = self.path / relative
        try:
            relative.encode()
        except UnicodeEncodeError:
            raise FailedPrecondition(f"the name {relative!a} is not UTF-8", reason="FILES_UNREADABLE") from None
        found = os.lstat(path)
        mode = stat.S_IMODE(found.st_mode) & _PERMISSIONS
        if stat.S_ISLNK(found.st_mode):
            return LocalEntry(relative, mode, found.st_mtime_ns, link=os.readlink(path))
        if stat.S_ISDIR(found.st_mode):
            return LocalEntry(relative, mode, found.st_mtime_ns)
        return self._file(path, relative, found, mode) if stat.S_ISREG(found.st_mode) else None

    def _file(self, path: Path, relative: str, found: os.stat_result, mode: int) -> LocalEntry:
        if found.st_size > MAX_FILE_BYTES:
            raise _too_large(f"{path} has more than {MAX_FILE_BYTES >> 30} GiB")
        return LocalEntry(relative, mode, found.st_mtime_ns, self.cache.digest(path, found), found.st_size)

    def blobs(self) -> dict[str, LocalEntry]:
        """One entry for each different content."""
        return {entry.digest: entry for entry in self.entries if entry.digest}

    def read(self, entry: LocalEntry) -> Iterator[bytes]:
        """The bytes of a file, as they are now (blocking). Raises FailedPrecondition (FILES_CHANGED)."""
        path = self.path / entry.path if entry.path else Path(os.path.realpath(self.path))
        try:
            fd = os.open(path, READ)
        except OSError as error:
            raise changed(str(path)) from error
        with open(fd, "rb", buffering=0) as file:
            left = entry.size
            while left and (chunk := file.read(min(left, _CHUNK // 2))):
                left -= len(chunk)
                yield chunk


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/shoal`, else `~/.cache/shoal`; without a home directory a place where nothing can be kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    root = base if os.path.isabs(base) else os.path.join(home if os.path.isabs(home) else os.devnull, ".cache")
    return Path(root, "shoal")


def missing(path: str) -> NotFound:
    """The error for a path that this machine does not have."""
    return NotFound(
        f"{path} does not exist on this machine",
        reason="NO_SUCH_FILE",
        hint="a path of the host is absolute: /path or host:/path; nothing is ever made in its place",
        metadata={"path": path},
    )


def hashed(path: Path, found: os.stat_result) -> str:
    """The digest of a file that is as `found`. Raises OSError, FailedPrecondition (FILES_CHANGED)."""
    fd = os.open(path, READ)
    with open(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        hashed = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
        after = os.fstat(fd)
    # A listing on Windows tells no inode.
    inodes = {each.st_ino for each in (found, before, after)} - {0}
    seen = {(each.st_size, each.st_mtime_ns) for each in (found, before, after)}
    if len(seen) != 1 or len(inodes) > 1:
        raise changed(str(path))
    return f"sha256:{hashed.hexdigest()}"


def changed(path: str) -> FailedPrecondition:
    """The error for a file that is not what it was."""
    return FailedPrecondition(f"{path} changes while it is read", reason="FILES_CHANGED", hint="try again")


def _too_large(message: str, reason: str = "FILE_TOO_LARGE") -> ResourceExhausted:
    return ResourceExhausted(message, reason=reason, hint="use a volume and `shoal volume import` for large data")
