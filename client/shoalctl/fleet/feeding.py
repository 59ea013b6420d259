"""Pieces that a thread reads, perhaps of standard input, into a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any


async def feed(call: Any, chunks: Iterator[bytes], message: Callable[[bytes], Any]) -> None:
    """Write each piece as a message. Returns early when the call has ended, even while there is nothing to read.

    Raises what `call.write` raises.
    """
    over = asyncio.Event()
    call.add_done_callback(lambda _: over.set())
    ending = asyncio.create_task(over.wait())
    reading: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            reading = asyncio.create_task(asyncio.to_thread(next, chunks, None))
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() or (chunk := reading.result()) is None:
                return
            await call.write(message(chunk))
    finally:
        ending.cancel()
        if reading is not None:
            reading.cancel()
