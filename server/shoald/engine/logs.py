"""Use cases of output: logs and attach. Output always comes from the log, so that a cut link resumes at its cursor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.containers.supervisor import Supervisor
from shoald.engine.ports import ExitStatus
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState
from shoald.model.log import LogBatch, LogQuery
from shoald.runtime import logchain
from shoald.runtime.journal import read_journal
from shoald.runtime.log import LogReader, read_log
from shoald.runtime.loggrep import matcher
from shoald.runtime.ports import ContainerRuntime, StdinWriter

RUNNING = (ContainerState.RUNNING, ContainerState.RESTARTING, ContainerState.PAUSED)


class OutputCases:
    """Logs and attach of containers, also of those that were removed a moment ago."""

    def __init__(
        self,
        md: Metadata,
        supervisor: Supervisor,
        runtime: ContainerRuntime,
        find: Callable[[str], Container],
        log_path: Callable[[str], Path],
    ) -> None:
        self._md = md
        self._supervisor = supervisor
        self._runtime = runtime
        self._find = find
        self._log_path = log_path
        self._rotator = supervisor.logs

    async def logs(self, name: str, query: LogQuery) -> AsyncIterator[LogBatch]:
        """See engine.ports.Engine.logs. Following ends when the container does not run and all was read."""
        container = self._find(name)
        if query.grep is not None:
            matcher(query.grep)  # a pattern that is no good is told before anything else
        if container.spec.log.driver == "none":
            raise FailedPrecondition(
                f"container {container.name} keeps no log: its log driver is none",
                reason="NO_LOG",
                hint="shoal attach shows new output",
            )
        read = read_journal if container.spec.log.driver == "journald" else self._read
        async with (
            self._finished(container.id) as finished,
            aclosing(read(container.id, query, finished)) as batches,
        ):
            async for batch in batches:
                yield batch

    async def attach(
        self, name: str, cursor: str, stdout: bool, stderr: bool, stdin: bool, raw: bool = False
    ) -> Attachment:
        """See engine.ports.Engine.attach."""
        container = self._find(name)
        path = self._path(container.id)
        if cursor == "start":
            # What this run wrote first may be rotated away: then all that is there is of this run.
            cursor = container.log_cursor if logchain.holds(path, container.log_cursor) else ""
        elif not cursor:
            cursor = logchain.end_cursor(path)
        query = LogQuery(follow=True, cursor=cursor, stdout=stdout, stderr=stderr, raw=raw)
        writer = None
        stack = AsyncExitStack()
        if stdin:
            if not container.spec.stdin_open:
                raise FailedPrecondition(
                    f"container {container.name} was started without standard input",
                    reason="STDIN_CLOSED",
                    hint="run it with -i",
                )
            # One that has ended already only gives its output.
            with contextlib.suppress(FailedPrecondition):
                writer = await stack.enter_async_context(self._stdin(container.id))
        return Attachment(self, container.id, query, writer, stack)

    def _stdin(self, container_id: str) -> AbstractAsyncContextManager[StdinWriter]:
        return self._runtime.attach_stdin(container_id)

    def _path(self, container_id: str) -> Path:
        # The log moves before the row goes: a ghost's is there even while its container is still being removed.
        if self._supervisor.ghosts.get(container_id) is not None:
            return self._supervisor.ghosts.log_path(container_id)
        return self._log_path(container_id)

    @contextlib.asynccontextmanager
    async def _finished(self, container_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the container does not run (any more)."""
        finished = asyncio.Event()

        async def watch() -> None:
            while True:
                current = self._md.containers.get(container_id)
                if current is None or current.state not in RUNNING:
                    finished.set()
                    return
                # No await since the record was read: no change is missed.
                await self._supervisor.change(container_id).wait()

        watching = asyncio.create_task(watch())
        try:
            yield finished
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _read(
        self, container_id: str, query: LogQuery, finished: asyncio.Event
    ) -> AsyncGenerator[LogBatch, None]:
        reader = LogReader(lambda: self._path(container_id), query)
        with self._rotator.reading(container_id, lambda: reader.sequence):
            async with aclosing(read_log(reader, query, finished=finished)) as batches:
                async for batch in batches:
                    yield batch

    async def output(self, container_id: str, query: LogQuery) -> AsyncIterator[LogBatch | ExitStatus]:
        """The output, then the exit."""
        async with (
            self._finished(container_id) as finished,
            aclosing(self._read(container_id, query, finished)) as batches,
        ):
            async for batch in batches:
                yield batch
        end = await self._supervisor.wait(container_id, "not-running")
        yield ExitStatus(end.exit_code, end.oom_killed, end.error)

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Size of the terminal; one that has ended has none."""
        with contextlib.suppress(FailedPrecondition):
            await self._runtime.resize(container_id, rows, columns)


class Attachment:
    """See engine.ports.AttachSession."""

    def __init__(
        self, cases: OutputCases, container_id: str, query: LogQuery, writer: StdinWriter | None, stack: AsyncExitStack
    ) -> None:
        self._cases = cases
        self._container_id = container_id
        self._query = query
        self._writer = writer
        self._stack = stack

    def output(self) -> AsyncIterator[LogBatch | ExitStatus]:
        """Batches of output; an ExitStatus comes last."""
        return self._cases.output(self._container_id, self._query)

    async def write_stdin(self, data: bytes) -> None:
        """With back pressure. What comes after the container's end is dropped: a pipe's writer finds out late, too."""
        if self._writer is not None:
            with contextlib.suppress(FailedPrecondition):
                await self._writer.write(data)

    async def close_stdin(self) -> None:
        """End of input."""
        if self._writer is not None:
            with contextlib.suppress(FailedPrecondition):
                await self._writer.close()

    async def resize(self, rows: int, columns: int) -> None:
        """Size of the terminal."""
        await self._cases.resize(self._container_id, rows, columns)

    async def close(self) -> None:
        """Detach."""
        await self._stack.aclose()
