"""Long work that outlives its caller: a task with a replayable stream of events and a result.

A disconnect only ends a follower. The task ends by itself, by `cancel`, or with the daemon. A finished operation is
kept for ten minutes, so that a client that lost the link can take up the stream at its cursor.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from shoal.errors import AlreadyExists, Cancelled, NotFound, OutOfRange, ShoalError
from shoald.model.build import BuildWarning
from shoald.model.image import Progress

KEEP_FINISHED_S = 600.0
MAX_BUFFERED_BYTES = 32 << 20
"""Output of one operation that is kept for replay; the oldest goes first. What else happened is few, and stays."""
MAX_FINISHED_BYTES = 64 << 20
"""Output of all finished operations together; that of the oldest goes first."""

OUTPUT_DROPPED = BuildWarning("OutputDropped", "output before this point is no longer kept: it was not read in time")

R = TypeVar("R")
Emit = Callable[[object], None]


class Operation(Generic[R]):
    """One running or finished piece of work. `events` are numbered from 1 without end; numbers may be missing where a
    later Progress record replaced an earlier one of the same id. Output (an event with `data`) that is no longer kept
    is replaced by a BuildWarning of rule OutputDropped."""

    def __init__(self, request_id: str, kind: str, fingerprint: str, title: str = "") -> None:
        self.request_id = request_id
        self.kind = kind
        self.title = title
        self.started = datetime.now(UTC)
        self.ended: datetime | None = None
        self.fingerprint = fingerprint
        self.finished_at: float | None = None
        self._events: dict[int, object] = {}
        self._progress: dict[str, int] = {}
        self._output: deque[tuple[int, int]] = deque()
        self._last = 0
        self.buffered_bytes = 0
        self._dropped_to = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[R] | None = None
        self._entered = False

    def begin(self, work: Callable[[Emit], Awaitable[R]], ended: Callable[[], object] = lambda: None) -> None:
        """Start the task; `ended` is called when it is over."""

        async def run() -> R:
            self._entered = True
            return await work(self.emit)

        self._task = asyncio.create_task(run(), name=f"{self.kind}:{self.request_id}")
        self._task.add_done_callback(self._finish)
        self._task.add_done_callback(lambda _: ended())

    def _finish(self, task: asyncio.Task[R]) -> None:
        self.finished_at = time.monotonic()
        self.ended = datetime.now(UTC)
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
        if isinstance(body, Progress):
            self._events.pop(self._progress.get(body.id, 0), None)
            self._progress[body.id] = self._last
        elif data := getattr(body, "data", b""):
            self._output.append((self._last, len(data)))
            self.buffered_bytes += len(data)
        self._events[self._last] = event
        self.drop_output(MAX_BUFFERED_BYTES)
        self._wake()

    def drop_output(self, limit: int) -> None:
        """Keep the last `limit` bytes of output, but at least its last event while the work goes on."""
        while self.buffered_bytes > limit and len(self._output) > (not self.done):
            number, size = self._output.popleft()
            del self._events[number]
            self.buffered_bytes -= size
            self._dropped_to = number

    async def follow(self, cursor: int = 0, *, wait: bool = True) -> AsyncIterator[tuple[int, object]]:
        """Events after `cursor` with their numbers, until the work has ended, or only those of now. Raises nothing of
        the work's: see result().

        Raises OutOfRange (CURSOR_UNKNOWN) for a cursor that was never given.
        """
        if not 0 <= cursor <= self._last:
            raise OutOfRange(f"the {self.kind} {self.request_id} has no event {cursor} yet", reason="CURSOR_UNKNOWN")
        while True:
            changed, done, last = self._changed, self.done, self._last
            for number in range(cursor + 1, last + 1):
                cursor = number
                if number in self._events:
                    yield number, self._events[number]
                elif number == self._dropped_to:
                    # All that was dropped lies at or before this number: it is told once, where the rest begins.
                    yield number, (datetime.now(UTC), OUTPUT_DROPPED)
            if cursor >= self._last:
                if done or not wait:
                    return
                await changed.wait()

    async def result(self) -> R:
        """The result, or the work's error. Cancelling the caller leaves the work alone."""
        assert self._task is not None
        await asyncio.wait([self._task])
        if self._task.cancelled():
            raise Cancelled(f"the {self.kind} was cancelled", reason="OPERATION_CANCELLED")
        return self._task.result()

    def outcome(self) -> R | BaseException | None:
        """The result or the error of work that has ended; None while it goes on or when it was cancelled."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception() or self._task.result()

    def cancel(self) -> bool:
        """End the work; True when it was running. Work that was begun a moment ago is entered first, so that it can
        clean up what was prepared for it."""
        if self._task is None or self._task.done():
            return False
        if self._entered:
            return self._task.cancel()
        asyncio.get_running_loop().call_soon(self._task.cancel)
        return True

    async def settle(self) -> None:
        """Wait until the task has ended; never raises its error."""
        if self._task is not None:
            await asyncio.wait([self._task])


class Operations:
    """All operations of the daemon by request id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Operation[object]] = {}

    def start(
        self, request_id: str, kind: str, fingerprint: str, work: Callable[[Emit], Awaitable[R]], title: str = ""
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
        operation: Operation[R] = Operation(request_id or secrets.token_hex(16), kind, fingerprint, title)
        self._by_id[operation.request_id] = operation  # type: ignore[assignment]
        operation.begin(work, self._ended)
        return operation, True

    def all(self, kind: str) -> list[Operation[object]]:
        """Those of a kind, the oldest first."""
        self._forget_old()
        return [operation for operation in self._by_id.values() if operation.kind == kind]

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

    def _ended(self) -> None:
        self._forget_old()
        asyncio.get_running_loop().call_later(KEEP_FINISHED_S + 1, self._forget_old)

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEEP_FINISHED_S
        finished = [op for op in self._by_id.values() if op.finished_at is not None]
        room = MAX_FINISHED_BYTES
        for op in sorted(finished, key=lambda op: -(op.finished_at or 0)):
            if (op.finished_at or 0) < limit:
                del self._by_id[op.request_id]
                continue
            op.drop_output(max(room, 0))
            room -= op.buffered_bytes


class Once:
    """Short mutations by request id: a retry gets the first call's outcome instead of doing it twice."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str, asyncio.Task[Any]]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, request_id: str, fingerprint: str, work: Callable[[], Awaitable[R]]) -> R:
        """Do `work` once for this id; without an id always. The work is not cancelled with its caller.

        Raises AlreadyExists (REQUEST_ID_REUSED) when the id stands for something else, and what `work` raises; a call
        that failed for a passing reason (UNAVAILABLE, ABORTED) is forgotten, so that a retry is a true one.
        """
        self._forget_old()
        known = self._known.get(request_id)
        if known is not None and known[1] != fingerprint:
            raise AlreadyExists(
                f"request id {request_id} was used for another request",
                reason="REQUEST_ID_REUSED",
                hint="make a new request id for a new request",
            )
        task = known[2] if known is not None else self._begin(work)
        if request_id and known is None:
            self._known[request_id] = (time.monotonic(), fingerprint, task)
            task.add_done_callback(lambda done: self._forget_passing(request_id, done))
        result: R = await asyncio.shield(task)
        return result

    def _begin(self, work: Callable[[], Awaitable[R]]) -> asyncio.Task[R]:
        async def call() -> R:
            return await work()

        task = asyncio.ensure_future(call())
        # The loop itself knows tasks weakly only: one whose caller is gone could vanish.
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: there may be nobody left to see it

    def _forget_passing(self, request_id: str, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (isinstance(error, ShoalError) and error.code in ("UNAVAILABLE", "ABORTED")):
            self._known.pop(request_id, None)

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEEP_FINISHED_S
        for key in [k for k, (at, _, task) in self._known.items() if at < limit and task.done()]:
            del self._known[key]
