"""One file of a container's log: whole lines from an offset, counted from its end, and cursors.

A cursor is `INODE:OFFSET:TAG` in hex: the place after a whole line. The tag is taken from the file's first line, which
holds a time in nanoseconds: a file that was given the inode of one that is gone is told apart.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from shoal.errors import InvalidArgument, OutOfRange
from shoald.runtime.logline import line_ends, parse_records

BLOCK = 256 << 10
"""Bytes read at once: no batch holds more."""

_FIRST = 36
"""Bytes of a line that hold its time, in either form."""

_LAST = 64 << 10


class Cursor(Struct, frozen=True):
    """A place in a log, as text a reader keeps it."""

    inode: int
    offset: int
    tag: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises InvalidArgument (INVALID_CURSOR)."""
        parts = text.split(":")
        with contextlib.suppress(ValueError):
            if len(parts) == 3 and len(text) <= 48:
                numbers = [int(part, 16) for part in parts]
                if min(numbers) >= 0 and "_" not in text:
                    return cls(*numbers)
        raise InvalidArgument(f"bad log cursor {text!r}", reason="INVALID_CURSOR")

    def __str__(self) -> str:
        return f"{self.inode:x}:{self.offset:x}:{self.tag:x}"


def expired(message: str = "the log no longer holds the place of the cursor") -> OutOfRange:
    """The error of a reader whose place is gone."""
    return OutOfRange(message, reason="CURSOR_EXPIRED", hint="read from the log's beginning, or with --tail")


@dataclass(slots=True)
class LogFile:
    """An open file of a log; `sequence` is its number in the chain."""

    fd: int
    inode: int
    sequence: int = 1
    _tag: int = 0

    @classmethod
    def open(cls, path: Path, sequence: int = 1) -> LogFile | None:
        """None when it is not there."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        return cls(fd, os.fstat(fd).st_ino, sequence)

    def size(self) -> int:
        """Bytes now."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close."""
        os.close(self.fd)

    def tag(self) -> int:
        """See the module; 0 while the file is empty."""
        if not self._tag:
            first = os.pread(self.fd, _FIRST, 0)
            self._tag = zlib.crc32(first) or 1 if len(first) == _FIRST else 0
        return self._tag

    def cursor(self, offset: int) -> str:
        """The cursor for a place in this file."""
        return str(Cursor(self.inode, offset, self.tag() if offset else 0))

    def offset(self, cursor: Cursor) -> int:
        """The place of a cursor of this inode. Raises OutOfRange (CURSOR_EXPIRED)."""
        offset = cursor.offset
        if offset and (offset > self.size() or cursor.tag != self.tag() or os.pread(self.fd, 1, offset - 1) != b"\n"):
            raise expired("this log was replaced since the cursor was given")
        return offset

    def first_time_ns(self) -> int | None:
        """The time of its first record, if it has one."""
        records = parse_records(os.pread(self.fd, BLOCK, 0).partition(b"\n")[0] + b"\n")
        return records[0].time_ns if records else None

    def block(self, offset: int) -> tuple[bytes, int]:
        """(whole lines from `offset`, the offset after them); nothing when no whole line is there yet.

        A line longer than a block (the monitor never writes one) is passed over.
        """
        data = os.pread(self.fd, BLOCK, offset)
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return data, offset + end
        if end or len(data) < BLOCK:
            return data[:end], offset + end
        while data and b"\n" not in data:
            offset += len(data)
            data = os.pread(self.fd, BLOCK, offset)
        skipped = data.find(b"\n") + 1
        return (b"", offset + skipped) if data else (b"", offset)

    def end(self) -> int:
        """The place after its last whole line."""
        return self.line_start(self.size())

    def ends_in_a_part(self, *, stdout: bool, stderr: bool) -> bool | None:
        """Whether the last record of the wanted streams is an unfinished line; None when it has no such record."""
        end = self.end()
        for record in reversed(parse_records(os.pread(self.fd, min(end, _LAST), max(0, end - _LAST)))):
            if stderr if record.stderr else stdout:
                return record.partial
        return None

    def back(self, lines: int, *, stdout: bool, stderr: bool) -> tuple[int | None, int]:
        """(the place before its last `lines` lines of the wanted streams, how many it has); None when it has not so
        many."""
        counted = 0
        for start, data in self._blocks_from_end():
            ends = line_ends(data, stdout=stdout, stderr=stderr)
            if counted + len(ends) > lines:
                return start + ends[-1 - (lines - counted)], lines
            counted += len(ends)
        return None, counted

    def _blocks_from_end(self) -> Iterator[tuple[int, bytes]]:
        """Blocks overlap nothing: each ends where a line starts."""
        end = self.end()
        while end > 0:
            start = self.line_start(max(0, end - BLOCK)) if end > BLOCK else 0
            yield start, os.pread(self.fd, end - start, start)
            end = start

    def line_start(self, offset: int) -> int:
        """The nearest start of a line at or before `offset`."""
        while offset > 0:
            size = min(offset, 4096)
            data = os.pread(self.fd, size, offset - size)
            newline = data.rfind(b"\n")
            if newline >= 0:
                return offset - size + newline + 1
            offset -= size
        return 0
