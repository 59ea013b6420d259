"""An ssh agent of a client in a build step: whole bytes both ways, several connections, and ends of the client."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from shoal.errors import FailedPrecondition
from shoal.v1 import image_pb2 as pb
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoalctl.fleet.agents import AgentForward
from shoalctl.fleet.host import HostClient
from shoalctl.inventory import Host
from shoald.build import agents
from shoald.build.agents import Agents
from tests.support.api_server import serving
from tests.support.fake_engine import FakeEngine

HANDLE = "0123456789abcdef"


@contextlib.asynccontextmanager
async def _echo(path: Path) -> AsyncIterator[None]:
    """An agent that answers each piece with its length and itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def _lent(engine: FakeEngine, directory: Path, agent: Path) -> AsyncIterator[None]:
    async with serving(engine, directory) as running:
        client = HostClient(Host(name="h", address=f"unix://{running.config.socket_path}"), 5)
        task = asyncio.create_task(AgentForward(client, HANDLE, str(agent)).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()


async def _asked(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writing = asyncio.ensure_future(_written(writer, data))
        got = await asyncio.wait_for(reader.readexactly(len(data)), 10)
        await writing
    finally:
        writer.close()
    return got


async def _written(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_connections_reach_the_clients_agent(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with _echo(tmp_path / "agent"), _lent(engine, tmp_path, tmp_path / "agent"):
        async with engine.agents.socket(HANDLE, tmp_path / "steps", (os.getuid(), os.getgid()), 0o640) as path:
            assert path.stat().st_mode & 0o777 == 0o640
            data = [os.urandom(size) for size in (1, 100_000, 1 << 20)]
            assert await asyncio.gather(*(_asked(path, each) for each in data)) == data
        assert os.listdir(tmp_path / "steps") == []


async def test_an_agent_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with _lent(engine, tmp_path, tmp_path / "nothing"):
        async with engine.agents.socket(HANDLE, tmp_path / "steps", (os.getuid(), os.getgid()), 0o600) as path:
            with pytest.raises((asyncio.IncompleteReadError, OSError)):
                await _asked(path, b"x")


async def test_nobody_lends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "WAIT_S", 0.05)
    with pytest.raises(FailedPrecondition) as caught:
        async with Agents().socket(HANDLE, tmp_path, (0, 0), 0o600):
            pass
    assert caught.value.reason == "AGENT_MISSING"
    assert os.listdir(tmp_path) == []


async def test_the_later_call_takes_over(tmp_path: Path) -> None:
    lent = Agents()
    with lent.lent(HANDLE):
        with lent.lent(HANDLE) as second:
            assert await lent.get(HANDLE) is second
        assert HANDLE not in lent._forwards


@pytest.mark.parametrize(
    "messages",
    [
        [pb.ImageServiceForwardAgentRequest(close=1)],
        [pb.ImageServiceForwardAgentRequest(start={"handle": "short"})],
        [pb.ImageServiceForwardAgentRequest(start={"handle": HANDLE})] * 2,
    ],
)
async def test_a_stream_out_of_order(tmp_path: Path, messages: list[pb.ImageServiceForwardAgentRequest]) -> None:
    async with serving(FakeEngine(), tmp_path) as running, grpc.aio.insecure_channel(running.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in ImageServiceStub(channel).ForwardAgent(iter(messages)):
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
