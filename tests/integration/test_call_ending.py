"""A call that the host ends while the client writes tells the host's reason, every time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from shoal.errors import Internal
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost

ROUNDS = 300
CHUNK = bytes(1 << 16)


class _Refusing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Aborts each call in the middle of what the client sends."""

    def service(self, _: Any) -> grpc.RpcMethodHandler:
        async def handle(requests: Any, context: Any) -> bytes:
            await anext(requests)
            await context.abort(grpc.StatusCode.INTERNAL, "the disk is full")
            return b""

        return grpc.stream_unary_rpc_method_handler(handle)


@asynccontextmanager
async def _server() -> AsyncIterator[tuple[grpc.aio.Server, grpc.aio.Channel]]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, channel
    finally:
        await server.stop(0)


async def _sent_into(call: Any) -> str:
    ending = Ending(call)
    try:
        for _ in range(64):
            await call.write(CHUNK)
        await call.done_writing()
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        error = await ending.error()
        return f"{type(error).__name__}: {error}"
    finally:
        call.cancel()
    return "no error"


async def test_the_reason_is_never_hidden() -> None:
    async with _server() as (_, channel):
        heard = Counter([await _sent_into(channel.stream_unary("/test/Put")()) for _ in range(ROUNDS)])
    assert heard == {f"{Internal.__name__}: the disk is full": ROUNDS}


async def test_a_host_that_is_gone_is_a_lost_link() -> None:
    async with _server() as (server, channel):
        await channel.channel_ready()
        await server.stop(0)
        assert (await _sent_into(channel.stream_unary("/test/Put")())).startswith(f"{LinkLost.__name__}: ")
