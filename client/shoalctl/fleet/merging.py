"""Several logs as one, in the order of time.

Logs that end are merged exactly. While they are followed, a line waits at most `patience` seconds for an earlier one of
another log; a log that has much to say does not wait for silent ones with more than a few MiB.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar, cast

from shoal.errors import ShoalError
from shoalctl.fleet.lines import Batch, Line

K = TypeVar("K")

PATIENCE = 0.5
_BUFFER = 4 << 20
_OVERHEAD = 200  # bytes that a waiting line costs besides its data


class _Source(Generic[K]):
    def __init__(self, key: K, batches: AsyncIterator[Batch]) -> None:
        self.key = key
        self.batches = batches
        self.waiting: deque[tuple[Line, float]] = deque()
        self.size = 0
        self.room = asyncio.Event()
        self.done = False
        self.error: ShoalError | None = None
        self.failure: Exception | None = None
        self.queued = False
        """Its first line is in the heap."""


async def merged_lines(
    sources: Sequence[tuple[K, AsyncIterator[Batch]]], *, patience: float | None
) -> AsyncGenerator[tuple[K, Line | ShoalError], None]:
    """The lines of all, each with the key of its log; a log that fails ends with its error. None: exactly in order."""
    loop = asyncio.get_running_loop()
    logs = [_Source(key, batches) for key, batches in sources]
    changed = asyncio.Event()
    pumps = [asyncio.create_task(_pump(log, changed)) for log in logs]
    heap: list[tuple[int, int]] = []
    open_logs = set(range(len(logs)))
    try:
        while open_logs:
            changed.clear()
            silent = False
            for number in list(open_logs):
                log = logs[number]
                if log.queued:
                    continue
                if log.waiting:
                    heapq.heappush(heap, (log.waiting[0][0].time_ns, number))
                    log.queued = True
                elif log.done:
                    open_logs.discard(number)
                    if log.failure is not None:
                        raise log.failure
                    if log.error is not None:
                        yield log.key, log.error
                else:
                    silent = True
            if not heap:
                if open_logs:
                    await changed.wait()
                continue
            first = logs[heap[0][1]]
            if silent:
                wait = None if patience is None else first.waiting[0][1] + patience - loop.time()
                full = patience is not None and any(log.size >= _BUFFER for log in logs)
                if not full and (wait is None or wait > 0):
                    try:
                        async with asyncio.timeout(wait):
                            await changed.wait()
                    except TimeoutError:
                        pass
                    continue
            for line in _next(logs, heap):
                yield first.key, line
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def _next(logs: list[_Source[K]], heap: list[tuple[int, int]]) -> list[Line]:
    """The lines of the log that is first, as far as they come before all others."""
    _, number = heapq.heappop(heap)
    log = logs[number]
    until = heap[0][0] if heap else None
    _, arrived = log.waiting[0]
    lines: list[Line] = []
    while log.waiting:
        line, at = log.waiting[0]
        if lines and (at != arrived or (until is not None and line.time_ns > until)):
            heapq.heappush(heap, (line.time_ns, number))
            break
        log.waiting.popleft()
        log.size -= len(line.data) + _OVERHEAD
        lines.append(line)
    else:
        log.queued = False
    if log.size < _BUFFER:
        log.room.set()
    return lines


async def _pump(log: _Source[K], changed: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with aclosing(cast("AsyncGenerator[Batch, None]", log.batches)) as batches:
            async for batch in batches:
                now = loop.time()
                for line in batch.lines():
                    log.waiting.append((line, now))
                    log.size += len(line.data) + _OVERHEAD
                changed.set()
                while log.size >= _BUFFER:
                    log.room.clear()
                    await log.room.wait()
    except ShoalError as error:
        log.error = error
    except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
        log.failure = error
    log.done = True
    changed.set()
