"""Reading a container's log: from a cursor, the last lines, or the start; to its end, or as it grows, across rotations.

Memory is bounded by one block, and by one line where lines are searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path

from shoal.errors import OutOfRange
from shoald.model.log import LogBatch, LogQuery, LogRecord
from shoald.runtime import logchain
from shoald.runtime.logchain import end_cursor as end_cursor
from shoald.runtime.logfile import LogFile
from shoald.runtime.loggrep import HOLD_S, LineFilter
from shoald.runtime.logline import parse_records, parse_spans
from shoald.runtime.logwatch import log_watch

_INLINE = 64 << 10
"""Up to so many bytes are read without a thread: they were just written."""

_SIGN_OF_LIFE = 8 << 20
"""After so many bytes without a wanted line, a batch without records tells how far the reader is."""

Locate = Callable[[], Path]


async def read_log(
    log: Path | LogReader, query: LogQuery, *, finished: asyncio.Event | None = None
) -> AsyncGenerator[LogBatch, None]:
    """Batches of the log (at most 256 KiB each). With `query.follow`, until `finished` is set and all is read.

    `finished` must be set only when the container's last output is in the log, which conmon's exit file tells. A cursor
    makes `tail` and `since` count for nothing. `log` is its path, or a reader of `query` that has not begun.
    Raises InvalidArgument (INVALID_CURSOR, INVALID_PATTERN), OutOfRange (CURSOR_EXPIRED), the latter also in the middle
    of a log that is rotated away faster than it is read.
    """
    with contextlib.closing(log if isinstance(log, LogReader) else LogReader(lambda: log, query)) as reader:
        if not query.follow:
            async for batch in reader.batches():
                yield batch
            for batch in reader.rest():
                yield batch
            return
        async for batch in _follow(reader, query, finished or asyncio.Event()):
            yield batch


async def _follow(reader: LogReader, query: LogQuery, finished: asyncio.Event) -> AsyncIterator[LogBatch]:
    # The directory, not the file: that may not be there yet. The watch is set before the first look.
    with log_watch().changes(reader.locate().parent) as changed:
        while True:
            changed.clear()
            last = finished.is_set() or _past(query)
            async for batch in reader.batches():
                yield batch
            if last:
                for batch in reader.rest():
                    yield batch
                return
            for batch in reader.overdue():
                yield batch
            await _changed(changed, finished, _patience(query, reader))


def _past(query: LogQuery) -> bool:
    return query.until_ns is not None and time.time_ns() > query.until_ns


def _patience(query: LogQuery, reader: LogReader) -> float | None:
    """Seconds until something is to be done though nothing is written."""
    waits = []
    if query.until_ns is not None:
        waits.append((query.until_ns - time.time_ns()) / 1e9)
    if reader.held_since:
        waits.append(reader.held_since + HOLD_S - time.monotonic())
    return max(0.0, min(waits)) if waits else None


async def _changed(changed: asyncio.Event, finished: asyncio.Event, timeout: float | None) -> None:
    """Wait until the log grew, the container finished, or the time is over."""
    waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(finished.wait())]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class LogReader:
    """Where one reader is in a log. `locate` tells its path: the log of a container that is removed moves."""

    def __init__(self, locate: Locate, query: LogQuery) -> None:
        self.locate = locate
        self._query = query
        self._file: LogFile | None = None
        self._offset = 0
        self._since_ns = None if query.cursor else query.since_ns
        everything = query.stdout and query.stderr and query.until_ns is None
        self._filter = not everything or self._since_ns is not None
        self._grep = LineFilter(query.grep) if query.grep is not None else None
        self._raw = query.raw and not self._filter and self._grep is None
        self._silent = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def sequence(self) -> int:
        """The number of the file that it reads; 0: it has not begun."""
        return 0 if self._file is None else self._file.sequence

    @property
    def held_since(self) -> float:
        """Since when records wait for the end of their line (monotonic); 0: none do."""
        return 0.0 if self._grep is None else self._grep.held_since

    def _begin(self) -> bool:
        if self._file is None:
            found = self._first()
            if found is None:
                return False
            self._file, self._offset = found
        return True

    def _first(self) -> tuple[LogFile, int] | None:
        query, path = self._query, self.locate()
        if query.cursor:
            return logchain.at_cursor(path, query.cursor)
        if query.tail is not None and query.tail >= 0:
            return logchain.tail(path, query.tail, stdout=query.stdout, stderr=query.stderr)
        file = logchain.opened(path, 0) if self._since_ns is None else logchain.since(path, self._since_ns)
        return None if file is None else (file, 0)

    async def batches(self) -> AsyncIterator[LogBatch]:
        """What is there from the current place on, up to the present end."""
        if self._file is None and not await asyncio.to_thread(self._begin):
            return
        while self._file is not None:
            # In this order: a file that has a successor grows no more.
            following: LogFile | None = None
            gap: OutOfRange | None = None
            try:
                following = logchain.successor(self.locate(), self._file)
            except OutOfRange as error:
                gap = error  # what is left of this file comes first
            try:
                async for batch in self._rest_of_file():
                    yield batch
            except BaseException:
                if following is not None:
                    following.close()
                raise
            if gap is not None:
                raise gap
            if following is None:
                return
            self._file.close()
            self._file, self._offset = following, 0

    async def _rest_of_file(self) -> AsyncIterator[LogBatch]:
        assert self._file is not None
        end = self._file.size()
        while self._offset < end:
            before = self._offset
            if end - before > _INLINE:
                batch = await asyncio.to_thread(self._read)
            else:
                batch = self._read()
            if self._offset == before:
                return
            self._silent += self._offset - before
            if batch.records or batch.raw or self._silent >= _SIGN_OF_LIFE:
                self._silent = 0
                yield batch

    def _read(self) -> LogBatch:
        assert self._file is not None
        file, before = self._file, self._offset
        data, self._offset = file.block(before)
        if self._raw:
            return LogBatch((), file.cursor(self._offset), data)
        if self._grep is None:
            records = parse_records(data)
            if self._filter:
                records = [record for record in records if self._wanted(record)]
            return LogBatch(tuple(records), file.cursor(self._offset))
        spans = ((record, start) for record, start in parse_spans(data) if self._wanted(record))
        found = self._grep.feed((record, lambda at=before + start: file.cursor(at)) for record, start in spans)  # type: ignore[misc]
        return LogBatch(tuple(found), self._grep.first_held_at or file.cursor(self._offset))

    def overdue(self) -> Iterator[LogBatch]:
        """Records that have waited long enough for the end of their line."""
        if self.held_since and time.monotonic() - self.held_since >= HOLD_S:
            yield from self.rest()

    def rest(self) -> Iterator[LogBatch]:
        """All records that still wait."""
        if self._grep is not None and self._file is not None and self._grep.held_since:
            records = self._grep.flush()
            if records:
                yield LogBatch(tuple(records), self._file.cursor(self._offset))

    def _wanted(self, record: LogRecord) -> bool:
        query = self._query
        if not (query.stderr if record.stderr else query.stdout):
            return False
        if self._since_ns is not None and record.time_ns < self._since_ns:
            return False
        return query.until_ns is None or record.time_ns <= query.until_ns
