"""Logs in the host's journal (systemd-journald): conmon writes them, journalctl reads them back.

An entry is a record: MESSAGE with or without its newline, PRIORITY 6 for stdout and 3 for stderr,
CONTAINER_PARTIAL_MESSAGE for a part of a line. A cursor is the journal's own behind `j:`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from msgspec import Struct

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.host.process import PIPE, Process, run, spawn
from shoald.model.log import LogBatch, LogQuery, LogRecord
from shoald.runtime.loggrep import LineFilter

SOCKET = "/run/systemd/journal/socket"
_CURSOR = re.compile(r"j:([0-9a-z=;]{1,400})")
_BATCH = 1000
_LONGEST_ENTRY = 4 << 20
_SYNC_S = 10.0
_STDERR = "3"


class _Entry(Struct):
    cursor: str = msgspec.field(name="__CURSOR")
    time: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    priority: str = msgspec.field(name="PRIORITY", default="6")
    partial: str = msgspec.field(name="CONTAINER_PARTIAL_MESSAGE", default="")

    def record(self) -> LogRecord:
        message = self.message or ""
        data = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else bytes(message)
        partial = self.partial == "true"
        # Some versions of conmon leave the line's newline in the message.
        whole = data if partial or data.endswith(b"\n") else data + b"\n"
        return LogRecord(int(self.time) * 1000, self.priority == _STDERR, whole, partial)


_DECODER = msgspec.json.Decoder(_Entry)


def check_journal(socket: str = SOCKET) -> None:
    """Raises FailedPrecondition (NO_JOURNAL) where this host has no journal."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(socket).st_mode) and shutil.which("journalctl"):
            return
    raise FailedPrecondition(
        "log driver journald: systemd-journald does not run on this host",
        reason="NO_JOURNAL",
        hint="use --log-driver local",
    )


def arguments(container_id: str, query: LogQuery, *, follow: bool) -> list[str]:
    """journalctl's command line. Raises InvalidArgument (INVALID_CURSOR)."""
    argv = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json"]
    argv.append("--output-fields=MESSAGE,PRIORITY,CONTAINER_PARTIAL_MESSAGE")
    if query.cursor:
        match = _CURSOR.fullmatch(query.cursor)
        if match is None:
            raise InvalidArgument(f"bad log cursor {query.cursor!r}", reason="INVALID_CURSOR")
        argv += [f"--after-cursor={match[1]}", "--lines=all"]
    else:
        argv.append(f"--lines={'all' if query.tail is None else query.tail}")
        if query.since_ns is not None:
            argv.append(f"--since=@{query.since_ns / 1e9:.6f}")
    if query.until_ns is not None and not follow:
        argv.append(f"--until=@{query.until_ns / 1e9:.6f}")
    if follow:
        argv.append("--follow")
    argv.append(f"CONTAINER_ID_FULL={container_id}")
    if not (query.stdout and query.stderr):
        argv.append("PRIORITY=6" if query.stdout else f"PRIORITY={_STDERR}")
    return argv


async def read_journal(container_id: str, query: LogQuery, finished: asyncio.Event) -> AsyncGenerator[LogBatch, None]:
    """As `shoald.runtime.log.read_log`, from the journal."""
    grep = LineFilter(query.grep) if query.grep is not None else None
    cursor = query.cursor
    if query.follow:
        async for batch in _batches(arguments(container_id, query, follow=True), query, grep, finished):
            cursor = batch.cursor
            yield batch
        # What was on its way when it ended: the journal takes entries in its own time.
        await run(["journalctl", "--sync"], check=False, timeout=_SYNC_S)
        query = msgspec.structs.replace(query, cursor=cursor, tail=None if cursor else query.tail)
    async for batch in _batches(arguments(container_id, query, follow=False), query, grep, None):
        cursor = batch.cursor
        yield batch
    if grep is not None and (rest := grep.flush()):
        yield LogBatch(tuple(rest), cursor)


async def _batches(
    argv: list[str], query: LogQuery, grep: LineFilter | None, finished: asyncio.Event | None
) -> AsyncIterator[LogBatch]:
    async with await spawn(argv, stdout=PIPE) as child:
        entries: list[_Entry] = []
        async for line in _lines(child, query, finished):
            if line:
                entries.append(_DECODER.decode(line))
            if entries and (not line or len(entries) >= _BATCH):
                yield _batch(entries, query, grep)
                entries = []


def _batch(entries: list[_Entry], query: LogQuery, grep: LineFilter | None) -> LogBatch:
    records = [(entry.record(), f"j:{entry.cursor}") for entry in entries]
    until = query.until_ns
    wanted = [(record, at) for record, at in records if until is None or record.time_ns <= until]
    if grep is None:
        return LogBatch(tuple(record for record, _ in wanted), records[-1][1])
    found = grep.feed((record, lambda at=at: at) for record, at in wanted)  # type: ignore[misc]
    return LogBatch(tuple(found), records[-1][1])


async def _lines(child: Process, query: LogQuery, finished: asyncio.Event | None) -> AsyncIterator[bytes]:
    """Lines of JSON; an empty one when no more is there for now."""
    pending = bytearray()
    until = None if query.until_ns is None or finished is None else query.until_ns / 1e9
    while True:
        chunk = await _chunk(child, finished, until)
        if chunk is None:
            break
        pending += chunk
        *lines, rest = bytes(pending).split(b"\n")
        for line in lines:
            if line:
                yield line
        pending = bytearray(rest)
        if len(pending) > _LONGEST_ENTRY:
            raise FailedPrecondition("an entry of the journal is too long", reason="JOURNAL_ENTRY_TOO_LONG")
        if len(chunk) < 1 << 16:
            yield b""
    yield b""


async def _chunk(child: Process, finished: asyncio.Event | None, until_s: float | None) -> bytes | None:
    """What it writes next; None at its end, when the container has finished, or when the time is over."""
    reading = asyncio.ensure_future(child.stdout.read(1 << 16))
    ending = asyncio.ensure_future(finished.wait()) if finished is not None else None
    try:
        timeout = None if until_s is None else max(0.0, until_s - time.time())
        await asyncio.wait([reading, *([ending] if ending else [])], timeout=timeout, return_when="FIRST_COMPLETED")
        return (reading.result() or None) if reading.done() else None
    finally:
        for task in (reading, ending):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
