"""The output of an exec: kept from the start, bounded, resumable by cursor, with back pressure on the process.

Positions count bytes of both streams together. What readers have been given stays for one more window, so that a client
that lost the link can take up; what nobody has read yet makes the process wait when the window is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from msgspec import Struct

from shoal.errors import InvalidArgument, OutOfRange

WINDOW = 1 << 20


class ExecOutput(Struct, frozen=True):
    """A piece of output and the cursor that resumes after it."""

    stderr: bool
    data: bytes
    cursor: str


class ExecBuffer:
    """One writer (`put`, `close`), any number of readers."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._pieces: deque[tuple[int, bool, bytes]] = deque()
        self._base = 0
        self._end = 0
        self._given = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def end(self) -> int:
        """Bytes that were written so far."""
        return self._end

    @property
    def full(self) -> bool:
        """Whether a writer would wait."""
        return self._end - self._given >= self._window

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def put(self, stderr: bool, data: bytes) -> None:
        """Append; waits while a whole window is unread."""
        while self.full:
            await self._changed.wait()
        self._pieces.append((self._end, stderr, data))
        self._end += len(data)
        self._wake()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake()

    async def read(self, cursor: str) -> AsyncIterator[ExecOutput]:
        """Pieces after the cursor ("" from the beginning) until the end. Raises OutOfRange (CURSOR_EXPIRED),
        InvalidArgument (INVALID_CURSOR)."""
        at = _position(cursor)
        if at < self._base or at > self._end:
            raise OutOfRange("this output is no longer kept", reason="CURSOR_EXPIRED")
        while True:
            changed = self._changed
            for start, stderr, data in list(self._pieces):
                if start + len(data) <= at:
                    continue
                if start > at:
                    raise OutOfRange("this output is no longer kept", reason="CURSOR_EXPIRED")
                piece = data[at - start :]
                at = start + len(data)
                yield ExecOutput(stderr, piece, str(at))
                self._was_given(at)
            if at == self._end:
                if self._closed:
                    return
                await changed.wait()

    def _was_given(self, position: int) -> None:
        if position <= self._given:
            return
        self._given = position
        while self._pieces and self._pieces[0][0] + len(self._pieces[0][2]) <= position - self._window:
            start, _, data = self._pieces.popleft()
            self._base = start + len(data)
        self._wake()


def _position(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise InvalidArgument(f"bad cursor {cursor!r}", reason="INVALID_CURSOR")
    return int(cursor)
