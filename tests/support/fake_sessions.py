"""Attached clients of the fake engine's containers and processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from shoald.engine.ports import (
    ExecOutput,
    ExitStatus,
    LogBatch,
    LogRecord,
)

if TYPE_CHECKING:
    from tests.support.fake_engine import FakeEngine


class FakeAttachSession:
    """Echoes standard input; the container exits with code 7 at the end of input, or when `exit_now` is set."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._queue: asyncio.Queue[LogBatch | ExitStatus] = asyncio.Queue()
        self.closed = False
        self.sizes: list[tuple[int, int]] = []
        engine.sessions.append(self)

    async def output(self) -> AsyncIterator[LogBatch | ExitStatus]:
        while True:
            item = await self._queue.get()
            yield item

    def emit(self, data: bytes, cursor: str = "1") -> None:
        self._queue.put_nowait(LogBatch((LogRecord(1_000_000_001, False, data, False),), cursor))

    def exit(self, code: int) -> None:
        self._queue.put_nowait(ExitStatus(code))

    async def write_stdin(self, data: bytes) -> None:
        if self._engine.stdin_error is not None:
            raise self._engine.stdin_error
        self.emit(data)

    async def close_stdin(self) -> None:
        self.exit(7)

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


class FakeExecSession:
    """Echoes standard input on standard error; the process exits with code 9 at the end of input."""

    def __init__(self, engine: FakeEngine) -> None:
        self._queue: asyncio.Queue[ExecOutput | ExitStatus] = asyncio.Queue()
        self.closed: list[bool] = []
        self.sizes: list[tuple[int, int]] = []
        self.taken = 0
        self.acknowledged: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        engine.execs.append(self)

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        while True:
            yield await self._queue.get()

    @property
    def stdin_taken(self) -> int:
        return self.taken

    def received(self, cursor: str) -> None:
        self.acknowledged.append(cursor)

    async def write_stdin(self, data: bytes, offset: int) -> None:
        await self.reads.wait()
        self.taken = offset + len(data)
        self._queue.put_nowait(ExecOutput(True, data, "5"))

    async def close_stdin(self) -> None:
        self._queue.put_nowait(ExitStatus(9))

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    async def close(self, *, detached: bool = False) -> None:
        """`closed` says whether on purpose."""
        await asyncio.sleep(0)
        self.closed.append(detached)
