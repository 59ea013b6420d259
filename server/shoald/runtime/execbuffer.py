"""The output of an exec: kept from the start, bounded, resumable by cursor, with back pressure on the process.

Positions count bytes of both streams together. What nobody has read yet makes the process wait when the window is full.
What was read stays for one more window, so that a client that lost the link can take up; more than that may be on its
way in a fast link's buffers, so a reader that confirms counts as having read only what it has confirmed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator

from msgspec import Struct

from shoal.errors import InvalidArgument, OutOfRange

WINDOW = 2 << 20
PIECE = 64 << 10
MAX_PIECES = 4096
"""Bounds what a process costs that writes single bytes to both streams in turn."""


class ExecOutput(Struct, frozen=True):
    """A piece of output and the cursor that resumes after it."""

    stderr: bool
    data: bytes
    cursor: str


class _Piece(Struct):
    start: int
    stderr: bool
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class ExecBuffer:
    """One writer for each stream (`put`), `close`, any number of readers."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._pieces: list[_Piece] = []
        self._end = 0
        self._given = 0
        self._closed = False
        self._lossy = False
        self._changed = asyncio.Event()

    @property
    def end(self) -> int:
        """Bytes that were written so far."""
        return self._end

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._end - self._base

    @property
    def full(self) -> bool:
        """Whether a writer would wait."""
        if self._lossy:
            return False
        return self._end - self._given >= self._window or len(self._pieces) - self._index(self._given) >= MAX_PIECES

    @property
    def _base(self) -> int:
        return self._pieces[0].start if self._pieces else self._end

    def _index(self, position: int) -> int:
        """Of the piece that holds the byte at `position`."""
        return max(0, bisect_right(self._pieces, position, key=lambda piece: piece.start) - 1)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def put(self, stderr: bool, data: bytes) -> None:
        """Append; waits while a whole window is unread. What comes after `close` is dropped."""
        while self.full and not self._closed:
            await self._changed.wait()
        if self._closed:
            return
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.stderr == stderr and len(last.data) + len(data) <= PIECE:
            last.data += data
        else:
            self._pieces.append(_Piece(self._end, stderr, data))
        self._end += len(data)
        if self._lossy:
            self._was_given(self._end)
        self._wake()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake()

    def lose(self, lossy: bool) -> None:
        """With True nobody is expected to read: the process never waits, and only the last window is kept."""
        self._lossy = lossy
        if lossy:
            self._was_given(self._end)

    def drop(self) -> None:
        """Forget what is kept; only after `close`."""
        self._pieces.clear()

    def received(self, cursor: str) -> None:
        """A reader that confirms has all up to here. Raises InvalidArgument (INVALID_CURSOR)."""
        self._was_given(min(_position(cursor), self._end))

    async def read(self, cursor: str, *, confirms: bool = False) -> AsyncGenerator[ExecOutput, None]:
        """Pieces after the cursor ("" from the beginning) until the end; `confirms`: `received` tells what has arrived.

        Raises OutOfRange (CURSOR_EXPIRED), InvalidArgument (INVALID_CURSOR).
        """
        at = _position(cursor)
        if confirms:
            self.received(cursor)
        while True:
            if at < self._base or at > self._end:
                raise OutOfRange(
                    "this part of the output is no longer kept",
                    reason="CURSOR_EXPIRED",
                    hint="attach again without a cursor, or with a later one",
                )
            if at == self._end:
                if self._closed:
                    return
                await self._changed.wait()
                continue
            piece = self._pieces[self._index(at)]
            data = piece.data[at - piece.start :]
            at += len(data)
            yield ExecOutput(piece.stderr, data, str(at))
            if not confirms:
                self._was_given(at)

    def _was_given(self, position: int) -> None:
        if position <= self._given:
            return
        self._given = position
        unneeded = 0
        for piece in self._pieces:
            excess = len(self._pieces) - unneeded > MAX_PIECES and piece.end <= position
            if not excess and piece.end > position - self._window:
                break
            unneeded += 1
        del self._pieces[:unneeded]
        self._wake()


def _position(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise InvalidArgument(f"bad cursor {cursor!r}", reason="INVALID_CURSOR")
    return int(cursor)
