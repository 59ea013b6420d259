"""Reading a container's log: from a cursor, the last lines, or the start; to its end, or as it grows.

A cursor is `INODE:OFFSET` in hex, the place after a whole line. Memory is bounded by one block.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument, OutOfRange
from shoald.model.log import LogBatch, LogQuery, LogRecord
from shoald.runtime.logline import line_ends, parse_records
from shoald.runtime.logwatch import log_watch

BLOCK = 256 << 10
"""Bytes read at once: no batch holds more."""

_INLINE = 64 << 10
"""Up to so many bytes are read without a thread: they were just written."""


@dataclass(slots=True)
class LogFile:
    """An open log."""

    fd: int
    inode: int

    @classmethod
    def open(cls, path: Path) -> LogFile | None:
        """None when there is no log yet."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        return cls(fd, os.fstat(fd).st_ino)

    def size(self) -> int:
        """Bytes now."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close."""
        os.close(self.fd)

    def cursor(self, offset: int) -> str:
        """The cursor for a place in this file."""
        return f"{self.inode:x}:{offset:x}"

    def offset(self, cursor: str) -> int:
        """The place of a cursor. Raises InvalidArgument (INVALID_CURSOR), OutOfRange (CURSOR_EXPIRED)."""
        inode, offset = _split(cursor)
        if inode != self.inode or offset > self.size() or (offset and os.pread(self.fd, 1, offset - 1) != b"\n"):
            raise OutOfRange("this log was replaced since the cursor was given", reason="CURSOR_EXPIRED")
        return offset

    def block(self, offset: int) -> tuple[bytes, int]:
        """(whole lines from `offset`, the offset after them); nothing when no whole line is there yet.

        A line longer than a block (the monitor never writes one) is passed over.
        """
        data = os.pread(self.fd, BLOCK, offset)
        end = data.rfind(b"\n") + 1
        if end or len(data) < BLOCK:
            return data[:end], offset + end
        while data and b"\n" not in data:
            offset += len(data)
            data = os.pread(self.fd, BLOCK, offset)
        skipped = data.find(b"\n") + 1
        return (b"", offset + skipped) if data else (b"", offset)

    def tail_offset(self, lines: int, *, stdout: bool, stderr: bool) -> int:
        """The place before the last `lines` lines of the wanted streams; an unfinished last line counts as one."""
        end = self.size()
        if lines <= 0:
            return _line_start(self.fd, end)
        end = _line_start(self.fd, end)
        last = parse_records(os.pread(self.fd, min(end, _INLINE), max(0, end - _INLINE)))
        wanted = [r for r in last if (r.stderr and stderr) or (not r.stderr and stdout)]
        remaining = lines - 1 if wanted and wanted[-1].partial else lines
        while end > 0:
            # Blocks overlap nothing: each ends where a line starts.
            start = _line_start(self.fd, max(0, end - BLOCK)) if end > BLOCK else 0
            data = os.pread(self.fd, end - start, start)
            ends = line_ends(data, stdout=stdout, stderr=stderr)
            if len(ends) > remaining:
                return start + ends[-1 - remaining]
            remaining -= len(ends)
            end = start
        return 0


def _line_start(fd: int, offset: int) -> int:
    """The nearest start of a line at or before `offset`."""
    while offset > 0:
        size = min(offset, 4096)
        data = os.pread(fd, size, offset - size)
        newline = data.rfind(b"\n")
        if newline >= 0:
            return offset - size + newline + 1
        offset -= size
    return 0


def _split(cursor: str) -> tuple[int, int]:
    inode, colon, offset = cursor.partition(":")
    with contextlib.suppress(ValueError):
        if colon and len(cursor) <= 40:
            numbers = int(inode, 16), int(offset, 16)
            if min(numbers) >= 0:
                return numbers
    raise InvalidArgument(f"bad log cursor {cursor!r}", reason="INVALID_CURSOR")


def end_cursor(path: Path) -> str:
    """The cursor after the last whole line now; "" when there is no log."""
    log = LogFile.open(path)
    if log is None:
        return ""
    try:
        return log.cursor(_line_start(log.fd, log.size()))
    finally:
        log.close()


def cursor_at(path: Path, offset: int) -> str:
    """The cursor for a place that is known to be the start of a line; "" (the beginning) when there is no log."""
    log = LogFile.open(path)
    if log is None:
        return ""
    try:
        return log.cursor(min(offset, log.size()))
    finally:
        log.close()


async def read_log(
    path: Path, query: LogQuery, *, finished: asyncio.Event | None = None
) -> AsyncGenerator[LogBatch, None]:
    """Batches of the log (at most 256 KiB each). With `query.follow`, until `finished` is set and all is read.

    `finished` must be set only when the container's last output is in the log, which conmon's exit file tells. A cursor
    makes `tail` and `since` count for nothing. Raises InvalidArgument (INVALID_CURSOR), OutOfRange (CURSOR_EXPIRED).
    """
    if not query.follow:
        log = LogFile.open(path)
        if log is None:
            return
        try:
            async with contextlib.aclosing(_Reader(log, query).batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            log.close()
        return
    async with contextlib.aclosing(_follow(path, query, finished or asyncio.Event())) as batches:
        async for batch in batches:
            yield batch


async def _follow(path: Path, query: LogQuery, finished: asyncio.Event) -> AsyncGenerator[LogBatch, None]:
    log: LogFile | None = None
    reader: _Reader | None = None
    # The directory, not the file: that may not be there yet. The watch is set before the first look.
    with log_watch().changes(path.parent) as changed:
        try:
            while True:
                changed.clear()
                last = finished.is_set() or _past(query)
                log = log or LogFile.open(path)
                if log is not None:
                    reader = reader or _Reader(log, query)
                    async with contextlib.aclosing(reader.batches()) as batches:
                        async for batch in batches:
                            yield batch
                if last:
                    return
                await _changed(changed, finished, query)
        finally:
            if log is not None:
                log.close()


def _past(query: LogQuery) -> bool:
    return query.until_ns is not None and time.time_ns() > query.until_ns


async def _changed(changed: asyncio.Event, finished: asyncio.Event, query: LogQuery) -> None:
    """Wait until the log grew, the container finished, or the time that was asked for is over."""
    timeout = None if query.until_ns is None else max(0.0, (query.until_ns - time.time_ns()) / 1e9)
    waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(finished.wait())]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class _Reader:
    """Where one reader is in a log."""

    def __init__(self, log: LogFile, query: LogQuery) -> None:
        self.log = log
        self._query = query
        self._offset = self._first_offset()
        everything = query.stdout and query.stderr and query.until_ns is None
        self._filter = not everything or (query.since_ns is not None and not query.cursor)

    def _first_offset(self) -> int:
        query = self._query
        if query.cursor:
            return self.log.offset(query.cursor)
        if query.tail is not None and query.tail >= 0:
            return self.log.tail_offset(query.tail, stdout=query.stdout, stderr=query.stderr)
        return 0

    async def batches(self) -> AsyncGenerator[LogBatch, None]:
        """What is there from the current place on, up to the size of now."""
        end = self.log.size()
        while self._offset < end:
            if end - self._offset > _INLINE:
                records, offset = await asyncio.to_thread(self._read)
            else:
                records, offset = self._read()
            if offset == self._offset:
                return
            self._offset = offset
            if records:
                yield LogBatch(tuple(records), self.log.cursor(offset))

    def _read(self) -> tuple[list[LogRecord], int]:
        data, offset = self.log.block(self._offset)
        records = parse_records(data)
        return ([record for record in records if self._wanted(record)] if self._filter else records), offset

    def _wanted(self, record: LogRecord) -> bool:
        query = self._query
        if not (query.stderr if record.stderr else query.stdout):
            return False
        if query.since_ns is not None and not query.cursor and record.time_ns < query.since_ns:
            return False
        return query.until_ns is None or record.time_ns <= query.until_ns
