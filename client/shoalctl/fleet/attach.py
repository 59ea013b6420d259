"""A container's standard streams: output from its first byte, input, window sizes; over lost links too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import OutOfRange
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.lines import Batch

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
    from shoalctl.fleet.host import HostClient

_WAITING_INPUT = 8  # messages; a reader of standard input waits beyond that


class Attachment:
    """The client's end of Attach. Iterate `output()` to its end, then read `exit_code`; leaving earlier detaches.

    After a lost link the output resumes with no gap and no duplicate. Input that was on its way at that moment may be
    lost: the API does not acknowledge it. Its end is told again, but to a `terminal`: there it is a key, and counts.
    """

    def __init__(
        self, host: HostClient, name: str, *, stdin: bool = False, cursor: str = "start", terminal: bool = False
    ) -> None:
        self.exit_code: int | None = None
        self.gap: Callable[[], None] | None = None
        """Called where output is missing, because the host threw it away before it was read."""
        self._host = host
        self._name = name
        self._stdin = stdin
        self._cursor = cursor
        self._input: asyncio.Queue[Any] = asyncio.Queue(_WAITING_INPUT)
        self._size: tuple[int, int] | None = None
        self._terminal = terminal
        self._ended = False

    async def send(self, data: bytes) -> None:
        """Bytes for the container's standard input, in order; waits when the host is slow."""
        from shoal.v1 import container_pb2

        await self._input.put(container_pb2.ContainerServiceAttachRequest(stdin=data))

    async def end_input(self) -> None:
        """The end of the input; nothing may be sent after it."""
        await self._input.put(_end_of_input())

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has a new size. One that nobody has set (0 by 0) says nothing."""
        if rows > 0 and columns > 0 and (rows, columns) != self._size:
            self._size = (rows, columns)
            # A full queue means that input is stuck; the size goes out with the next message then.
            with suppress(asyncio.QueueFull):
                self._input.put_nowait(self._resize())

    async def output(self) -> AsyncIterator[container_pb2.LogRecord]:
        """The output, until the container has exited."""
        async for message in self._messages(raw=False):
            for record in message.records:
                yield record

    async def pieces(self) -> AsyncIterator[tuple[bool, bytes]]:
        """As `output`: (is standard error, bytes), as much at once as there is, which is many times faster."""
        async for message in self._messages(raw=True):
            for piece in Batch(message).pieces():
                yield piece

    async def _messages(self, *, raw: bool) -> AsyncIterator[container_pb2.ContainerServiceAttachResponse.Output]:
        while self.exit_code is None:
            try:
                async for message in self._once(raw):
                    yield message
            except LinkLost:
                await self._host.link.reconnect()
            except OutOfRange as error:
                # The host threw away what was not read in time: go on with what is there.
                if self.gap is None or error.reason != "CURSOR_EXPIRED":
                    raise
                self.gap()
                self._cursor = "start"

    async def _once(self, raw: bool) -> AsyncIterator[container_pb2.ContainerServiceAttachResponse.Output]:
        from shoal.v1 import container_pb2_grpc

        channel = await self._host.link.channel()
        call = container_pb2_grpc.ContainerServiceStub(channel).Attach()
        ending = Ending(call)
        writer: asyncio.Task[None] | None = None
        try:
            await call.write(self._start(raw))
            if self._size is not None:
                await call.write(self._resize())
            writer = asyncio.create_task(self._write(call))
            async for message in call:
                self._host.link.answered()
                if message.HasField("output"):
                    yield message.output
                    self._cursor = message.output.cursor or self._cursor
                elif message.HasField("exit"):
                    self.exit_code = message.exit.exit_code
                    return
            raise LinkLost("the stream ended before the container did")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await ending.error() from error
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            call.cancel()

    def _start(self, raw: bool) -> container_pb2.ContainerServiceAttachRequest:
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceAttachRequest
        return request(
            start=request.Start(
                name=self._name,
                cursor=self._cursor,
                stdout=True,
                stderr=True,
                stdin=self._stdin,
                accept_raw=raw,
            )
        )

    def _resize(self) -> container_pb2.ContainerServiceAttachRequest:
        from shoal.v1 import container_pb2

        rows, columns = self._size or (0, 0)
        request = container_pb2.ContainerServiceAttachRequest
        return request(resize=request.Resize(rows=rows, columns=columns))

    async def _write(self, call: Any) -> None:
        """Send what is in the queue; the end of the call is the reader's to notice."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if self._ended and not self._terminal:
                await call.write(_end_of_input())  # an earlier connection may have lost it
            while True:
                message = await self._input.get()
                self._ended = self._ended or message.HasField("stdin_eof")
                await call.write(message)


def _end_of_input() -> container_pb2.ContainerServiceAttachRequest:
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceAttachRequest
    return request(stdin_eof=request.StdinEof())
