"""A build's context as a tar stream: sorted, reproducible, never in memory as a whole.

What goes in: directories, regular files, FIFOs, symbolic links (as links; nothing is followed) and hard links, with
their modes and modification times in whole seconds; owner and group are root's, as Docker sends them. Sockets and
devices stay out and are named in `skipped`.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument
from shoal.ignore import Matcher

CHUNK = 512 * 1024
"""Bytes of a chunk, about; gRPC streams this size fastest."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class BuildContext:
    """The files below `root` that `ignore` does not exclude. Can be read several times, once for each host."""

    def __init__(self, root: Path, ignore: Matcher | None = None) -> None:
        self._root = root
        self.kept = True
        """False: the directory is gone after the build, so that nothing of it is worth remembering."""
        self._ignore = ignore or Matcher([])
        self.skipped: set[str] = set()

    @classmethod
    def at(cls, root: Path, dockerfile: Path | None = None) -> BuildContext:
        """The context of a directory, with `<Dockerfile>.dockerignore` or else `.dockerignore`.

        Raises InvalidArgument when the directory or a pattern is bad.
        """
        if not root.is_dir():
            raise InvalidArgument(
                f"the build context {root} is not a directory",
                reason="BAD_CONTEXT",
                hint="give a directory, or - for a Dockerfile on standard input",
            )
        own = [dockerfile.with_name(dockerfile.name + ".dockerignore")] if dockerfile else []
        for path in (*own, root / ".dockerignore"):
            if path.is_file():
                return cls(root, Matcher.parse(path.read_bytes(), windows=os.name == "nt"))
        return cls(root)

    @property
    def root(self) -> Path:
        """Its directory."""
        return self._root

    def files(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """Name, path and status of each member, in order; blocking. Raises FailedPrecondition (CONTEXT_UNREADABLE)."""
        return self._walk()

    def chunks(self) -> Iterator[bytes]:
        """The tar stream in pieces; blocking. Raises FailedPrecondition (CONTEXT_UNREADABLE) that names the file."""
        buffer = bytearray()
        links: dict[tuple[int, int], str] = {}
        for name, path, info in self._walk():
            try:
                pieces = self._member(name, path, info, links)
                for piece in pieces:
                    buffer += piece
                    while len(buffer) >= CHUNK:
                        yield bytes(buffer[:CHUNK])
                        del buffer[:CHUNK]
            except OSError as error:
                raise unreadable(path, error.strerror or str(error)) from error
        buffer += bytes(2 * tarfile.BLOCKSIZE)
        yield bytes(buffer)

    def _walk(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """Members in the order of names; an excluded directory comes only with what is brought back in it."""
        pending: list[tuple[str, str, os.stat_result]] = []
        stack: list[Iterator[os.DirEntry[str]]] = [self._entries(str(self._root))]
        names = [""]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                left = names.pop()
                if pending and pending[-1][0] == left:
                    pending.pop()
                continue
            name = f"{names[-1]}/{entry.name}" if names[-1] else entry.name
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:
                raise unreadable(entry.path, error.strerror or str(error)) from error
            directory = stat.S_ISDIR(info.st_mode)
            excluded = self._ignore.excluded(name)
            if not excluded:
                yield from pending
                pending.clear()
                yield name, entry.path, info
            if directory and (not excluded or self._ignore.may_descend(name)):
                if excluded:
                    pending.append((name, entry.path, info))
                stack.append(self._entries(entry.path))
                names.append(name)

    def _entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return iter(sorted(entries, key=lambda entry: os.fsencode(entry.name)))
        except OSError as error:
            raise unreadable(path, error.strerror or str(error)) from error

    def _member(self, name: str, path: str, info: os.stat_result, links: dict[tuple[int, int], str]) -> Iterator[bytes]:
        member = tarfile.TarInfo(name)
        member.mode = stat.S_IMODE(info.st_mode) if os.name == "posix" else 0o755
        member.mtime = info.st_mtime_ns // 10**9
        if stat.S_ISDIR(info.st_mode):
            member.type = tarfile.DIRTYPE
            yield _header(member)
        elif stat.S_ISLNK(info.st_mode):
            member.type = tarfile.SYMTYPE
            member.linkname = os.readlink(path).replace(os.sep, "/")
            yield _header(member)
        elif stat.S_ISFIFO(info.st_mode):
            member.type = tarfile.FIFOTYPE
            yield _header(member)
        elif not stat.S_ISREG(info.st_mode):
            self.skipped.add(name)
        elif info.st_nlink > 1 and (first := links.setdefault((info.st_dev, info.st_ino), name)) != name:
            member.type = tarfile.LNKTYPE
            member.linkname = first
            yield _header(member)
        else:
            yield from _regular(member, path)


def _regular(member: tarfile.TarInfo, path: str) -> Iterator[bytes]:
    # The file may have been replaced since it was listed: what was opened is what counts.
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    with open(descriptor, "rb", buffering=0) as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise unreadable(path, "it is no longer a regular file")
        member.size = info.st_size
        yield _header(member)
        left = info.st_size
        while left:
            data = file.read(min(left, CHUNK))
            if not data:
                raise unreadable(path, "it became shorter while it was read")
            left -= len(data)
            yield data
        if file.read(1):
            raise unreadable(path, "it became longer while it was read")
    yield bytes(-member.size % tarfile.BLOCKSIZE)


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


async def without_blocking(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a blocking iterator, each made in a thread."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def unreadable(path: str, why: str) -> FailedPrecondition:
    """The error for a file that can't be sent."""
    return FailedPrecondition(
        f"can't read {path} of the build context: {why}",
        reason="CONTEXT_UNREADABLE",
        hint="put it into .dockerignore if the build does not need it",
    )
