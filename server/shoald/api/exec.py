"""ContainerService: Exec, ExecAttach, ExecKill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoald.api.checks import invalid, operation_id, required
from shoald.api.codec_exec import MAX_TERMINAL, exec_input, exec_order, exec_output, exec_started
from shoald.api.gate import note
from shoald.api.privileges import entered
from shoald.api.streams import Context, closing, until_first
from shoald.engine.ports import Engine, ExecAttachSession, ExecOrder, ExecStarted, ExitStatus

MAX_INPUT = 4 << 20
"""Bytes of input that wait for the process: more than a client sends that waits for confirmation."""
MESSAGE_COST = 1 << 10
"""Bytes that a message counts for beside its input: empty ones cost too."""


class ExecMethods(container_pb2_grpc.ContainerServiceServicer):
    """More processes in running containers."""

    _engine: Engine

    async def Exec(self, request: pb.ContainerServiceExecRequest, context: Context) -> pb.ContainerServiceExecResponse:
        started = await self._engine.exec(operation_id(request.request_id), await _allowed(self._engine, request))
        return pb.ContainerServiceExecResponse(exec_id=started.exec_id, pid=started.pid)

    async def ExecKill(
        self, request: pb.ContainerServiceExecKillRequest, context: Context
    ) -> pb.ContainerServiceExecKillResponse:
        exec_id = required("exec_id", request.exec_id)
        await entered(self._engine, self._engine.exec_container(exec_id), "a signal for a process in")
        await self._engine.exec_kill(exec_id, request.signal)
        return pb.ContainerServiceExecKillResponse()

    async def ExecAttach(  # type: ignore[override]
        self, requests: AsyncIterator[pb.ContainerServiceExecAttachRequest], context: Context
    ) -> None:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise invalid("start", "must be the first message")
        started = await _started(self._engine, first.start)
        session = await self._engine.exec_attach(started.exec_id, first.start.cursor, first.start.acknowledges)
        detached = asyncio.Event()
        try:
            await context.write(exec_started(started, session.stdin_taken))
            sender = _Sender(context)
            typed = _Input(session, sender)
            await until_first(_give(session, sender), _take(session, requests, typed, detached), typed.pass_on())
        finally:
            await asyncio.shield(session.close(detached=detached.is_set()))


async def _allowed(engine: Engine, request: pb.ContainerServiceExecRequest) -> ExecOrder:
    """The order, if its caller may make it of this container."""
    order = exec_order(request)
    return msgspec.structs.replace(order, container=await entered(engine, order.container, "a process in"))


async def _started(engine: Engine, start: pb.ContainerServiceExecAttachRequest.Start) -> ExecStarted:
    """The process to attach to, started now where the message orders it."""
    if not start.HasField("exec"):
        exec_id = required("start.exec_id", start.exec_id)
        await entered(engine, engine.exec_container(exec_id), "the streams of a process in")
        return ExecStarted(exec_id, 0)
    if start.exec_id:
        raise invalid("start.exec", "excludes start.exec_id")
    note(start.exec)
    request_id = operation_id(required("start.exec.request_id", start.exec.request_id))
    order = await _allowed(engine, start.exec)
    if order.request.detach:
        raise invalid("start.exec.detach", "has no use where a client attaches")
    return await engine.exec(request_id, order)


class _Sender:
    """Writes to a stream from two tasks: gRPC takes one message at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def write(self, message: pb.ContainerServiceExecAttachResponse) -> None:
        """Send it, when the client takes it."""
        async with self._lock:
            await self._context.write(message)


class _Input:
    """Input on its way to the process. Only its own task waits for a process that does not read: what else the client
    says, also what it has received of the output that such a process waits for, is heard meanwhile."""

    def __init__(self, session: ExecAttachSession, sender: _Sender) -> None:
        self._session = session
        self._sender = sender
        self._waiting: deque[pb.ContainerServiceExecAttachRequest] = deque()
        self._size = 0
        self._changed = asyncio.Condition()

    async def put(self, message: pb.ContainerServiceExecAttachRequest) -> None:
        """Queue input or its end; waits for room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < MAX_INPUT)
            self._waiting.append(message)
            self._size += len(message.stdin) + MESSAGE_COST
            self._changed.notify_all()

    async def drained(self) -> None:
        """Wait until the process has been given all of it."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._size)

    async def pass_on(self) -> None:
        """Give the process what comes, up to the end of the input, and the client the word of it. Never returns."""
        open_ = True
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
                message = self._waiting.popleft()
            if open_ and message.HasField("stdin_eof"):
                open_ = False
                await self._session.close_stdin()
            elif open_:
                await self._session.write_stdin(message.stdin, message.stdin_offset)
                await self._sender.write(exec_input(self._session.stdin_taken))
            async with self._changed:
                self._size -= len(message.stdin) + MESSAGE_COST
                self._changed.notify_all()


async def _give(session: ExecAttachSession, sender: _Sender) -> None:
    async with closing(session.output()) as output:
        async for item in output:
            await sender.write(exec_output(item))
            if isinstance(item, ExitStatus):
                return


async def _take(
    session: ExecAttachSession,
    requests: AsyncIterator[pb.ContainerServiceExecAttachRequest],
    typed: _Input,
    detached: asyncio.Event,
) -> None:
    async for message in requests:
        match message.WhichOneof("message"):
            case "stdin" | "stdin_eof":
                await typed.put(message)
            case "received":
                session.received(message.received.cursor)
            case "resize":
                size = message.resize
                if not (1 <= size.rows <= MAX_TERMINAL and 1 <= size.columns <= MAX_TERMINAL):
                    raise invalid("resize", f"{size.rows} x {size.columns} is no size of a terminal")
                await session.resize(size.rows, size.columns)
            case "detach":
                detached.set()
                return
            case "start":
                raise invalid("start", "comes once")
            case _:
                raise invalid("message", "is of a kind that this daemon does not know")
    await typed.drained()
