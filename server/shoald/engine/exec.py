"""Use cases of exec: more processes in running containers, which outlive the link to their client for a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from secrets import token_hex

import structlog

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted, ShoalError
from shoald.containers.lifecycle import Publish
from shoald.containers.plan import parse_signal
from shoald.engine.ports import ExecOrder, ExecStarted, ExitStatus
from shoald.model.container import Container, ContainerState
from shoald.runtime.exec import ExecProcess, ExecRunner
from shoald.runtime.execbuffer import ExecOutput
from shoald.runtime.execspec import check_exec

log = structlog.get_logger(__name__)

KEEP_ENDED_S = 300.0
KEEP_ENDED = 1000
KEEP_BYTES = 32 << 20
"""Of output, by all ended ones together."""
GRACE_S = 10.0
"""How long a process goes on without the client that followed it."""
MAX_RUNNING = 512
CLOSE_WAIT_S = 30.0


class ExecSession:
    """One process and all that is known of it."""

    def __init__(self, exec_id: str, order: ExecOrder, container: Container) -> None:
        self.exec_id = exec_id
        self.order = order
        self.container = container
        self.ended_at: float | None = None
        self.process: ExecProcess | None = None
        self.started: asyncio.Future[ExecProcess] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self._clients = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def size(self) -> int:
        """Bytes of output that it keeps."""
        return self.process.output.size if self.process is not None else 0

    def connected(self) -> None:
        """One more client follows."""
        self._clients += 1
        self._stop_timer()
        if self.process is not None:
            self.process.output.lose(False)

    def disconnected(self, *, detached: bool) -> None:
        """A client left: on purpose, or the link was cut."""
        self._clients -= 1
        if self._clients > 0 or self.process is None or self.ended_at is not None:
            return
        if detached or not self.order.kill_on_disconnect:
            self.process.output.lose(True)
        else:
            self.await_client()

    def await_client(self) -> None:
        """Somebody has to come within the grace time."""
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(GRACE_S, self._abandoned)

    def _abandoned(self) -> None:
        self._timer = None
        if self.process is not None and self._clients <= 0:
            log.info("exec_abandoned", container=self.container.id, exec_id=self.exec_id)
            self.process.end()
            self.process.output.lose(True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ended(self) -> None:
        """It is over."""
        self.ended_at = time.monotonic()
        self._stop_timer()


class ExecCases:
    """Exec, attach to one, signal one."""

    def __init__(self, find: Callable[[str], Container], runner: ExecRunner, publish: Publish) -> None:
        """`find` raises NotFound (CONTAINER_NOT_FOUND)."""
        self._find = find
        self._runner = runner
        self._publish = publish
        self._sessions: dict[str, ExecSession] = {}
        self._by_request: dict[str, ExecSession] = {}

    async def exec(self, request_id: str, order: ExecOrder) -> ExecStarted:
        """Start a process; when this returns it runs. A retry with the same id joins the first call.

        Raises FailedPrecondition (NOT_RUNNING, CONTAINER_PAUSED, COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE),
        InvalidArgument, ResourceExhausted (TOO_MANY_EXECS).
        """
        session = self._by_request.get(request_id) if request_id else None
        if session is None:
            session = self._begin(request_id, order)
        elif session.order != order:
            raise AlreadyExists(f"request id {request_id} was used for another request", reason="REQUEST_ID_REUSED")
        process = await asyncio.shield(session.started)
        return ExecStarted(session.exec_id, process.pid)

    def _begin(self, request_id: str, order: ExecOrder) -> ExecSession:
        check_exec(order.request)
        container = self._find(order.container)
        _check_state(container)
        self._forget_old()
        if sum(session.ended_at is None for session in self._sessions.values()) >= MAX_RUNNING:
            raise ResourceExhausted(f"{MAX_RUNNING} execs run on this host already", reason="TOO_MANY_EXECS")
        session = ExecSession(token_hex(32), order, container)
        session.started.add_done_callback(_looked_at)
        self._sessions[session.exec_id] = session
        if request_id:
            self._by_request[request_id] = session
        session.task = asyncio.create_task(self._live(session, request_id))
        return session

    async def _live(self, session: ExecSession, request_id: str) -> None:
        container, request = session.container, session.order.request
        told = {"name": container.name, "image": container.spec.image, "execID": session.exec_id}
        told = {**container.spec.labels, **told, "command": request.args[0]}

        def tell(action: str, **more: str) -> None:
            try:
                self._publish("container", action, container.id, {**told, **more})
            except ShoalError as error:
                log.error("event_not_stored", container=container.id, action=action, error=str(error))

        try:
            tell("exec_create")
            async with self._runner.run(container.id, container.pid, request) as process:
                session.process = process
                tell("exec_start")
                if session.order.kill_on_disconnect and not request.detach:
                    session.await_client()
                session.started.set_result(process)
                await process.wait()
        except BaseException as error:
            if not session.started.done():
                # Nothing runs: a retry may try again.
                self._sessions.pop(session.exec_id, None)
                self._by_request.pop(request_id, None)
                session.started.set_exception(_plain(error))
            if not isinstance(error, ShoalError):
                raise
        finally:
            session.ended()
            if session.process is not None:
                tell("exec_die", exitCode=str(await session.process.wait()))

    def _session(self, exec_id: str) -> ExecSession:
        session = self._sessions.get(exec_id)
        if session is None:
            raise NotFound(
                f"no exec with id {exec_id[:64]!r} is known here",
                reason="EXEC_NOT_FOUND",
                hint="it ended more than five minutes ago, or the daemon was restarted",
            )
        return session

    def container_of(self, exec_id: str) -> str:
        """Id of the container that it runs in. Raises NotFound (EXEC_NOT_FOUND)."""
        return self._session(exec_id).container.id

    async def attach(self, exec_id: str, cursor: str, *, confirms: bool = False) -> ExecAttachment:
        """Follow a process that was started; `confirms`: the client calls `received`.

        Raises NotFound (EXEC_NOT_FOUND).
        """
        session = self._session(exec_id)
        return ExecAttachment(session, await asyncio.shield(session.started), cursor, confirms)

    async def kill(self, exec_id: str, signal: str) -> None:
        """Signal it; one that has ended is a success. Raises NotFound (EXEC_NOT_FOUND), InvalidArgument."""
        number = parse_signal(signal or "SIGKILL")
        (await asyncio.shield(self._session(exec_id).started)).kill(number)

    def _forget_old(self) -> None:
        ended = [s for s in self._sessions.values() if s.ended_at is not None]
        ended.sort(key=lambda session: session.ended_at or 0.0, reverse=True)
        limit, kept, size = time.monotonic() - KEEP_ENDED_S, 0, 0
        gone: set[str] = set()
        for session in ended:
            kept, size = kept + 1, size + session.size
            if (session.ended_at or 0.0) < limit or kept > KEEP_ENDED or size > KEEP_BYTES:
                gone.add(session.exec_id)
        for exec_id in gone:
            del self._sessions[exec_id]
        for request_id in [key for key, session in self._by_request.items() if session.exec_id in gone]:
            del self._by_request[request_id]

    async def close(self) -> None:
        """Kill all: their streams end with the daemon."""
        tasks = [session.task for session in self._sessions.values() if session.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WAIT_S)


class ExecAttachment:
    """One client of a process; see engine.ports.ExecAttachSession."""

    def __init__(self, session: ExecSession, process: ExecProcess, cursor: str, confirms: bool) -> None:
        self._session = session
        self._process = process
        self._cursor = cursor
        self._confirms = confirms
        self._open = True
        session.connected()

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """Output after the cursor; an ExitStatus comes last."""
        async with contextlib.aclosing(self._process.output.read(self._cursor, confirms=self._confirms)) as pieces:
            async for piece in pieces:
                yield piece
        yield ExitStatus(await self._process.wait())

    def received(self, cursor: str) -> None:
        """The client has all output up to here. Raises InvalidArgument (INVALID_CURSOR)."""
        self._process.output.received(cursor)

    @property
    def stdin_taken(self) -> int:
        """Bytes of input that it was given, by all clients."""
        return self._process.taken

    async def write_stdin(self, data: bytes, offset: int) -> None:
        """With back pressure; what it does not read any more is dropped."""
        await self._process.write(data, offset)

    async def close_stdin(self) -> None:
        """End of input."""
        await self._process.close_stdin()

    async def resize(self, rows: int, columns: int) -> None:
        """Size of the terminal."""
        self._process.resize(rows, columns)

    async def close(self, *, detached: bool = False) -> None:
        """The client is gone; `detached`: because it wanted to."""
        if self._open:
            self._open = False
            self._session.disconnected(detached=detached)


def _check_state(container: Container) -> None:
    if container.state is ContainerState.PAUSED:
        raise FailedPrecondition(
            f"container {container.name} is paused",
            reason="CONTAINER_PAUSED",
            hint=f"shoal unpause {container.name}",
        )
    if container.state is not ContainerState.RUNNING or not container.pid:
        raise FailedPrecondition(
            f"container {container.name} is not running ({container.state.value})",
            reason="NOT_RUNNING",
            hint=f"shoal start {container.name}",
        )


def _looked_at(started: asyncio.Future[ExecProcess]) -> None:
    if not started.cancelled():
        started.exception()


def _plain(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return FailedPrecondition("the daemon is shutting down", reason="SHUTTING_DOWN")
