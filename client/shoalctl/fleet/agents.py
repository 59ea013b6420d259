"""The ssh agent of this machine, lent to the builds of one host while a call goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost

if TYPE_CHECKING:
    from shoalctl.fleet.host import HostClient

_CHUNK = 32 << 10


class AgentForward:
    """Carries connections of the host's build steps to the agent's socket at `path`; over lost links too."""

    def __init__(self, host: HostClient, handle: str, path: str) -> None:
        self._host = host
        self._handle = handle
        self._path = path
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled. Raises what the host refuses it with."""
        while True:
            try:
                await self._once()
            except LinkLost:
                await self._host.link.reconnect()

    async def _once(self) -> None:
        from shoal.v1 import image_pb2, image_pb2_grpc

        request = image_pb2.ImageServiceForwardAgentRequest
        call = image_pb2_grpc.ImageServiceStub(await self._host.link.channel()).ForwardAgent()
        ending, lock = Ending(call), asyncio.Lock()
        try:
            await call.write(request(start=request.Start(handle=self._handle)))
            async for message in call:
                match message.WhichOneof("message"):
                    case "open":
                        await self._open(call, lock, message.open)
                    case "data":
                        await self._pass_on(message.data.connection, message.data.data)
                    case "close":
                        self._end(message.close)
            raise LinkLost("the host ended the call")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await ending.error() from error
        finally:
            for number in list(self._writers):
                self._end(number)
            for task in list(self._tasks):
                task.cancel()
            call.cancel()

    async def _open(self, call: Any, lock: asyncio.Lock, number: int) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            await self._closed(call, lock, number)
            return
        self._writers[number] = writer
        task = asyncio.create_task(self._carry(call, lock, number, reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, call: Any, lock: asyncio.Lock, number: int, reader: asyncio.StreamReader) -> None:
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServiceForwardAgentRequest
        # The end of the call is the reader's to notice.
        with suppress(OSError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while data := await reader.read(_CHUNK):
                async with lock:
                    await call.write(request(data=image_pb2.AgentData(connection=number, data=data)))
            await self._closed(call, lock, number)

    async def _closed(self, call: Any, lock: asyncio.Lock, number: int) -> None:
        from shoal.v1 import image_pb2

        async with lock:
            await call.write(image_pb2.ImageServiceForwardAgentRequest(close=number))

    async def _pass_on(self, number: int, data: bytes) -> None:
        writer = self._writers.get(number)
        if writer is not None:
            with suppress(OSError):
                writer.write(data)
                await writer.drain()

    def _end(self, number: int) -> None:
        writer = self._writers.pop(number, None)
        if writer is not None:
            writer.close()
