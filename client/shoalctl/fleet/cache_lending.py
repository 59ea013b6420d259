"""A cache in a directory of this machine, lent to the builds of one host: it is sent what it asks for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import ShoalError
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.cache_layout import CacheLayout

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient

_CHUNK = 512 << 10


class CacheLoan:
    """Lends a layout under a handle; over lost links too. Blobs go one after the other."""

    def __init__(self, host: HostClient, handle: str, layout: CacheLayout) -> None:
        self._host = host
        self._handle = handle
        self._layout = layout
        self._dropped = 0

    async def run(self) -> None:
        """Until it is cancelled. Raises what the host refuses it with."""
        while True:
            try:
                await self._once()
            except LinkLost:
                await self._host.link.reconnect()

    async def _once(self) -> None:
        from shoal.v1 import image_pb2, image_pb2_grpc

        request = image_pb2.ImageServiceLendCacheRequest
        call = image_pb2_grpc.ImageServiceStub(await self._host.link.channel()).LendCache()
        ending = Ending(call)
        wants: asyncio.Queue[image_pb2.ImageServiceLendCacheResponse.Want] = asyncio.Queue()
        self._dropped = 0
        sending = asyncio.create_task(self._send(call, wants))
        try:
            await call.write(request(start=request.Start(handle=self._handle)))
            async for message in call:
                self._host.link.answered()
                if message.HasField("want"):
                    wants.put_nowait(message.want)
                else:
                    self._dropped = message.drop
            raise LinkLost("the host ended the call")
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await ending.error() from error
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    async def _send(self, call: Any, wants: asyncio.Queue[image_pb2.ImageServiceLendCacheResponse.Want]) -> None:
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServiceLendCacheRequest
        # The end of the call is the reader's to notice.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                want = await wants.get()
                error = ""
                try:
                    await self._send_blob(call, want)
                except (ShoalError, OSError, ValueError, OverflowError) as problem:
                    error = str(problem)
                await call.write(request(end=request.End(number=want.number, error=error)))

    async def _send_blob(self, call: Any, want: image_pb2.ImageServiceLendCacheResponse.Want) -> None:
        """All of it, unless it is dropped. Raises what the layout does, OSError."""
        from shoal.v1 import image_pb2

        request = image_pb2.ImageServiceLendCacheRequest
        with await asyncio.to_thread(self._layout.open, want.digest) as file:
            file.seek(want.offset)
            while self._dropped < want.number and (data := await asyncio.to_thread(file.read, _CHUNK)):
                await call.write(request(chunk=request.Chunk(number=want.number, data=data)))
