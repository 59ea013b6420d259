"""One more process in a container: its output from the first byte, its input, its end; over lost links too."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import NotFound
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
    from shoalctl.fleet.host import HostClient

_WAITING_INPUT = 8  # messages; a reader of standard input waits beyond that
_UNCONFIRMED = 1 << 20  # bytes of input that are kept until the host has confirmed them
_ACKNOWLEDGE = 256 << 10  # bytes of output after which the host hears that they have arrived


class ExecStream:
    """The client's end of ExecAttach. Iterate `output()`; then `exit_code` is set, unless `detach()` ended it.

    Starting and attaching are one call. After a lost link the output resumes with no gap and no duplicate, and input
    goes on with the first byte that the host does not have: nothing of it is lost or written twice.
    """

    def __init__(self, host: HostClient, request: container_pb2.ContainerServiceExecRequest) -> None:
        """`request.request_id` must be set."""
        self.exit_code: int | None = None
        self.exec_id = ""
        self.started = asyncio.Event()
        self._host = host
        self._request = request
        self._cursor = ""
        self._input: asyncio.Queue[Any] = asyncio.Queue(_WAITING_INPUT)
        self._size: tuple[int, int] | None = None
        self._detached = False
        self._sent = 0
        self._unconfirmed: deque[Any] = deque()
        self._confirmed = asyncio.Event()
        self._arrived = 0
        self._due = asyncio.Event()

    @property
    def name(self) -> str:
        """The host's name."""
        return self._host.name

    async def kill(self, name: str = "", signal: str = "") -> None:
        """Send a signal (default SIGKILL) to the process, once; `name` is not needed. Raises LinkLost."""
        from shoal.v1 import container_pb2

        await self.started.wait()
        request = container_pb2.ContainerServiceExecKillRequest(exec_id=self.exec_id, signal=signal)
        # Without an id the host could not tell a repeat from a second signal.
        await self._host.link.unary(_exec_kill, request, repeat=False)

    async def send(self, data: bytes) -> None:
        """Bytes for the standard input, in order; waits when the host is slow."""
        from shoal.v1 import container_pb2

        message = container_pb2.ContainerServiceExecAttachRequest(stdin=data, stdin_offset=self._sent)
        self._sent += len(data)
        await self._input.put(message)

    async def end_input(self) -> None:
        """The end of the input; nothing may be sent after it."""
        from shoal.v1 import container_pb2

        eof = container_pb2.ContainerServiceAttachRequest.StdinEof()
        await self._input.put(container_pb2.ContainerServiceExecAttachRequest(stdin_eof=eof))

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has a new size."""
        if rows > 0 and columns > 0 and (rows, columns) != self._size:
            self._size = (rows, columns)
            with suppress(asyncio.QueueFull):
                self._input.put_nowait(self._resize())

    async def detach(self) -> None:
        """Leave it running: `output()` ends."""
        from shoal.v1 import container_pb2

        self._detached = True
        request = container_pb2.ContainerServiceExecAttachRequest
        await self._input.put(request(detach=request.Detach()))

    async def output(self) -> AsyncIterator[container_pb2.ContainerServiceExecAttachResponse.Output]:
        """The output, until the process has ended."""
        while self.exit_code is None and not self._detached:
            try:
                async for piece in self._once():
                    yield piece
            except LinkLost:
                if not self._detached:
                    await self._host.link.reconnect()
            except NotFound as error:
                if self.exec_id and error.reason == "EXEC_NOT_FOUND":
                    raise NotFound(
                        "the process is gone: the host's daemon was restarted, or the link was away for too long",
                        reason="EXEC_LOST",
                    ) from error
                raise

    async def _once(self) -> AsyncIterator[container_pb2.ContainerServiceExecAttachResponse.Output]:
        from shoal.v1 import container_pb2_grpc

        channel = await self._host.link.channel()
        call = container_pb2_grpc.ContainerServiceStub(channel).ExecAttach()
        ending = Ending(call)
        lock = asyncio.Lock()
        writers = [asyncio.create_task(self._acknowledge(call, lock))]
        try:
            await call.write(self._start())
            async for message in call:
                self._host.link.answered()
                if message.HasField("output"):
                    yield message.output
                    self._cursor = message.output.cursor
                    self._arrived += len(message.output.data)
                    if self._arrived >= _ACKNOWLEDGE:
                        self._due.set()
                elif message.HasField("exit"):
                    self.exit_code = message.exit.exit_code
                    return
                elif message.HasField("input"):
                    self._confirm(message.input.taken)
                elif message.HasField("started"):
                    self.exec_id = message.started.exec_id
                    self.started.set()
                    self._confirm(message.started.stdin_taken)
                    writers.append(asyncio.create_task(self._write(call, lock)))
            if not self._detached:
                raise LinkLost("the stream ended before the process did")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await ending.error() from error
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            call.cancel()

    def _start(self) -> container_pb2.ContainerServiceExecAttachRequest:
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceExecAttachRequest
        if self.exec_id:
            return request(start=request.Start(exec_id=self.exec_id, cursor=self._cursor, acknowledges=True))
        if self._size is not None:
            self._request.rows, self._request.columns = self._size
        return request(start=request.Start(exec=self._request, acknowledges=True))

    def _resize(self) -> container_pb2.ContainerServiceExecAttachRequest:
        from shoal.v1 import container_pb2

        rows, columns = self._size or (0, 0)
        size = container_pb2.ContainerServiceAttachRequest.Resize(rows=rows, columns=columns)
        return container_pb2.ContainerServiceExecAttachRequest(resize=size)

    def _confirm(self, taken: int) -> None:
        while self._unconfirmed and _end(self._unconfirmed[0]) <= taken:
            self._unconfirmed.popleft()
        self._confirmed.set()

    async def _acknowledge(self, call: Any, lock: asyncio.Lock) -> None:
        """Tell the host what has arrived. Not in the queue of the input, which may wait for a process that itself waits
        for its output to be taken."""
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceExecAttachRequest
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._due.wait()
                self._due.clear()
                self._arrived = 0
                async with lock:
                    await call.write(request(received=request.Received(cursor=self._cursor)))

    async def _write(self, call: Any, lock: asyncio.Lock) -> None:
        """Send again what an earlier connection may have lost, then what is in the queue. The end of the call is the
        reader's to notice."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for message in list(self._unconfirmed):
                async with lock:
                    await call.write(message)
            while True:
                await self._room()
                message = await self._input.get()
                if message.HasField("stdin") or message.HasField("stdin_eof"):
                    self._unconfirmed.append(message)
                async with lock:
                    await call.write(message)

    async def _room(self) -> None:
        while sum(len(message.stdin) for message in self._unconfirmed) > _UNCONFIRMED:
            self._confirmed.clear()
            await self._confirmed.wait()


def _end(message: container_pb2.ContainerServiceExecAttachRequest) -> float:
    """Where the input of a message ends; that of the input's end is never confirmed."""
    return message.stdin_offset + len(message.stdin) if message.HasField("stdin") else float("inf")


def _exec_kill(channel: Any) -> Any:
    from shoal.v1 import container_pb2_grpc

    return container_pb2_grpc.ContainerServiceStub(channel).ExecKill
