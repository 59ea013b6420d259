"""Long work that outlives its caller: a task with a replayable stream of events and a result.

A disconnect only ends a follower. The task ends by itself, by `cancel`, or with the daemon. A finished operation is
kept for ten minutes, so that a client that lost the link can take up the stream at its cursor.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from shoal.errors import AlreadyExists, Cancelled, NotFound, ShoalError
from shoald.model.image import Progress

KEEP_FINISHED_S = 600.0
MAX_BUFFERED_BYTES = 32 << 20
"""Events of one operation that are kept for replay; the oldest go first."""

R = TypeVar("R")
Emit = Callable[[object], None]


class Operation(Generic[R]):
    """One running or finished piece of work. `events` are numbered from 1 without end; numbers may be missing where a
    later Progress record replaced an earlier one of the same id."""

    def __init__(self, request_id: str, kind: str, fingerprint: str) -> None:
        self.request_id = request_id
        self.kind = kind
        self.fingerprint = fingerprint
        self.finished_at: float | None = None
        self._events: dict[int, tuple[int, object]] = {}
        self._progress: dict[str, int] = {}
        self._last = 0
        self._bytes = 0
        self._dropped_to = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[R] | None = None

    def begin(self, work: Callable[[Emit], Awaitable[R]]) -> None:
        """Start the task."""

        async def run() -> R:
            return await work(self.emit)

        self._task = asyncio.create_task(run(), name=f"{self.kind}:{self.request_id}")
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[R]) -> None:
        self.finished_at = time.monotonic()
        if not task.cancelled():
            task.exception()  # marks it as seen: followers raise it
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def done(self) -> bool:
        """True when the task has ended, in whatever way."""
        return self._task is not None and self._task.done()

    def emit(self, event: object) -> None:
        """Append an event, or a (time, event) pair; a Progress record replaces the earlier one with its id."""
        self._last += 1
        body = event[1] if isinstance(event, tuple) else event
        size = len(getattr(body, "data", b"")) + 200
        if isinstance(body, Progress):
            old = self._progress.get(body.id)
            if old is not None and old in self._events:
                self._bytes -= self._events.pop(old)[0]
            self._progress[body.id] = self._last
        self._events[self._last] = (size, event)
        self._bytes += size
        while self._bytes > MAX_BUFFERED_BYTES and len(self._events) > 1:
            oldest = next(iter(self._events))
            self._bytes -= self._events.pop(oldest)[0]
            self._dropped_to = oldest
        self._wake()

    async def follow(self, cursor: int = 0) -> AsyncIterator[tuple[int, object]]:
        """Events after `cursor` with their numbers, until the work has ended. Raises nothing of the work's: see
        result()."""
        while True:
            changed, done = self._changed, self.done
            start = max(cursor, self._dropped_to)
            for number in range(start + 1, self._last + 1):
                cursor = number
                entry = self._events.get(number)
                if entry is not None:
                    yield number, entry[1]
            if cursor >= self._last:
                if done:
                    return
                await changed.wait()

    async def result(self) -> R:
        """The result, or the work's error. Cancelling the caller leaves the work alone."""
        assert self._task is not None
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise Cancelled(f"the {self.kind} was cancelled", reason="OPERATION_CANCELLED") from None
            raise

    def cancel(self) -> bool:
        """End the work; True when it was running."""
        return self._task is not None and not self._task.done() and self._task.cancel()

    async def settle(self) -> None:
        """Wait until the task has ended; never raises its error."""
        if self._task is not None:
            await asyncio.wait([self._task])


class Operations:
    """All operations of the daemon by request id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Operation[object]] = {}

    def start(
        self, request_id: str, kind: str, fingerprint: str, work: Callable[[Emit], Awaitable[R]]
    ) -> tuple[Operation[R], bool]:
        """Begin `work`, or join the operation that has this id; the bool tells that it was begun now.

        Raises AlreadyExists (REQUEST_ID_REUSED) when the id stands for something else.
        """
        self._forget_old()
        known = self._by_id.get(request_id)
        if known is not None:
            if (known.kind, known.fingerprint) != (kind, fingerprint):
                raise AlreadyExists(
                    f"request id {request_id} was used for another request",
                    reason="REQUEST_ID_REUSED",
                    hint="make a new request id for a new request",
                )
            return known, False  # type: ignore[return-value]
        operation: Operation[R] = Operation(request_id or secrets.token_hex(16), kind, fingerprint)
        self._by_id[operation.request_id] = operation  # type: ignore[assignment]
        operation.begin(work)
        return operation, True

    def get(self, request_id: str, kind: str) -> Operation[object]:
        """The operation. Raises NotFound (OPERATION_NOT_FOUND)."""
        found = self._by_id.get(request_id)
        if found is None or found.kind != kind:
            raise NotFound(
                f"no {kind} with request id {request_id} is known here",
                reason="OPERATION_NOT_FOUND",
                hint="it ended more than ten minutes ago, or the daemon was restarted: start it again",
            )
        return found

    async def cancel(self, request_id: str) -> bool:
        """Cancel and wait for its clean-up; True when it was running."""
        found = self._by_id.get(request_id)
        if found is None or not found.cancel():
            return False
        await found.settle()
        return True

    async def close(self) -> None:
        """Cancel all and wait for their clean-up."""
        running = [op for op in self._by_id.values() if op.cancel()]
        for op in running:
            await op.settle()

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEEP_FINISHED_S
        for key in [k for k, op in self._by_id.items() if op.finished_at is not None and op.finished_at < limit]:
            del self._by_id[key]


class Once:
    """Short mutations by request id: a retry gets the first call's outcome instead of doing it twice."""

    def __init__(self) -> None:
        self._futures: dict[str, tuple[float, str, asyncio.Task[object]]] = {}

    async def run(self, request_id: str, fingerprint: str, work: Callable[[], Awaitable[R]]) -> R:
        """Do `work` once for this id; without an id always. The work is not cancelled with its caller."""

        async def call() -> R:
            return await work()

        if not request_id:
            return await asyncio.shield(asyncio.ensure_future(call()))
        self._forget_old()
        known = self._futures.get(request_id)
        if known is None:
            task = asyncio.ensure_future(call())
            self._futures[request_id] = (time.monotonic(), fingerprint, task)
        else:
            if known[1] != fingerprint:
                raise AlreadyExists(f"request id {request_id} was used for another request", reason="REQUEST_ID_REUSED")
            task = known[2]  # type: ignore[assignment]
        try:
            return await asyncio.shield(task)
        except ShoalError as error:
            if error.code in ("UNAVAILABLE", "ABORTED"):
                self._futures.pop(request_id, None)  # worth a true retry
            raise

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEEP_FINISHED_S
        for key in [k for k, (at, _, task) in self._futures.items() if at < limit and task.done()]:
            del self._futures[key]
