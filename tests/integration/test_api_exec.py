"""Exec and files of containers over a real server: order of streams, roles, what a cut link and a detach say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from tests.support.api_server import Fleet, Running, credentials, error_info, serving
from tests.support.fake_engine import FakeEngine

Attach = pb.ContainerServiceExecAttachRequest
Exec = pb.ContainerServiceExecRequest
CopyIn = pb.ContainerServiceCopyInRequest


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def running(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(engine, tmp_path) as server:
        yield server


@pytest.fixture
async def stub(running: Running) -> AsyncIterator[ContainerServiceStub]:
    async with grpc.aio.insecure_channel(running.socket) as channel:
        yield ContainerServiceStub(channel)


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became true")


async def _read_all(call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
    while await call.read() is not grpc.aio.EOF:
        pass


def _order(**fields: object) -> Exec:
    return Exec(**{"request_id": "r1", "name": "web", "command": ["sh"], **fields})  # type: ignore[arg-type]


async def test_exec_gives_id_and_pid(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    answer = await stub.Exec(_order(env=["A=b"], user="1", tty=True, on_disconnect=2))
    assert (answer.exec_id, answer.pid) == ("e" * 64, 4711)
    request_id, order = engine.asked("exec")
    assert (request_id, order.container, order.kill_on_disconnect) == ("r1", "web", False)
    assert (order.request.args, order.request.env, order.request.user, order.request.tty) == (
        ("sh",),
        ("A=b",),
        "1",
        True,
    )


async def test_one_call_starts_and_follows(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.ExecAttach()
    await call.write(Attach(start={"exec": _order()}))
    started = await call.read()
    assert (started.started.exec_id, started.started.pid) == ("e" * 64, 4711)
    await call.write(Attach(stdin=b"hi"))
    await call.write(Attach(resize={"rows": 5, "columns": 6}))
    answers = [await call.read(), await call.read()]
    (echo,) = [each.output for each in answers if each.HasField("output")]
    assert (echo.data, echo.cursor, echo.stream) == (b"hi", "5", pb.LogRecord.STREAM_STDERR)
    assert [each.input.taken for each in answers if each.HasField("input")] == [2]
    await call.write(Attach(stdin_eof={}))
    assert (await call.read()).exit.exit_code == 9
    assert await call.read() is grpc.aio.EOF
    assert engine.execs[0].sizes == [(5, 6)]


async def test_an_attach_resumes_at_its_cursor(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.ExecAttach()
    await call.write(Attach(start={"exec_id": "abc", "cursor": "77"}))
    assert (await call.read()).HasField("started")
    assert engine.asked("exec_attach") == ("abc", "77", False)
    assert not [name for name, _ in engine.calls if name == "exec"]
    call.cancel()


async def test_what_has_arrived_is_heard_while_the_process_does_not_read(
    stub: ContainerServiceStub, engine: FakeEngine
) -> None:
    call = stub.ExecAttach()
    await call.write(Attach(start={"exec": _order(), "acknowledges": True}))
    await call.read()
    assert engine.asked("exec_attach") == ("e" * 64, "", True)
    session = engine.execs[0]
    session.reads.clear()
    for _ in range(10):
        await call.write(Attach(stdin=bytes(100_000)))
    await call.write(Attach(received={"cursor": "77"}))
    await _until(lambda: session.acknowledged == ["77"])
    assert session.taken == 0
    session.reads.set()
    await call.write(Attach(stdin_eof={}))
    answers = []
    while (message := await call.read()) is not grpc.aio.EOF:
        answers.append(message)
    assert answers[-1].exit.exit_code == 9


async def test_a_half_close_does_not_drop_input(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.ExecAttach()
    await call.write(Attach(start={"exec": _order()}))
    await call.read()
    session = engine.execs[0]
    session.reads.clear()
    await call.write(Attach(stdin=b"last"))
    await call.done_writing()
    await asyncio.sleep(0.05)
    session.reads.set()
    await _until(lambda: session.taken == 4)


async def test_leaving_on_purpose_is_no_cut_link(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    for leave in ("detach", "half-close", "cancel"):
        call = stub.ExecAttach()
        await call.write(Attach(start={"exec": _order()}))
        await call.read()
        if leave == "detach":
            await call.write(Attach(detach={}))
        elif leave == "half-close":
            await call.done_writing()
        else:
            call.cancel()
        session = engine.execs[-1]
        await _until(lambda session=session: bool(session.closed))
        assert session.closed == [leave == "detach"]


@pytest.mark.parametrize(
    "messages",
    [
        [Attach(stdin=b"x")],
        [Attach(start={})],
        [Attach(start={"exec_id": "e", "exec": _order()})],
        [Attach(start={"exec": _order(request_id="")})],
        [Attach(start={"exec": _order(detach=True)})],
        [Attach(start={"exec": _order(name="")})],
        [Attach(start={"exec_id": "e"}), Attach(start={"exec_id": "e"})],
        [Attach(start={"exec_id": "e"}), Attach(resize={"rows": 0, "columns": 1})],
        [Attach(start={"exec_id": "e"}), Attach()],
    ],
)
async def test_a_stream_out_of_order_is_invalid(stub: ContainerServiceStub, messages: list[Attach]) -> None:
    call = stub.ExecAttach()
    for message in messages:
        await call.write(message)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(call)
    assert error_info(caught.value).reason == "INVALID_FIELD"


async def test_privileged_needs_an_admin_on_every_way(tmp_path: Path) -> None:
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", Role.OPERATOR))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            stub = ContainerServiceStub(channel)
            await stub.Exec(_order())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Exec(_order(privileged=True))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            call = stub.ExecAttach()
            await call.write(Attach(start={"exec": _order(privileged=True)}))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len([name for name, _ in engine.calls if name == "exec"]) == 1


async def test_copy_out_sends_the_stat_first(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.CopyOut(pb.ContainerServiceCopyOutRequest(name="web", path="/etc/passwd", follow_link=True))
    messages = [message async for message in call]
    assert (messages[0].stat.name, messages[0].stat.mode) == ("passwd", 0o100644)
    assert b"".join(message.chunk for message in messages[1:]) == b"onetwo"
    assert engine.asked("copy_out") == ("web", "/etc/passwd", True)


async def test_copy_in_takes_a_start_and_chunks(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.CopyIn()
    await call.write(CopyIn(start={"name": "web", "path": "/x", "keep_owner": True}))
    for chunk in (b"a" * 1000, b"b"):
        await call.write(CopyIn(chunk=chunk))
    await call.write(CopyIn(end={}))
    await call
    assert engine.asked("copy_in") == ("web", "/x", True, False)
    assert engine.context == b"a" * 1000 + b"b"
    assert engine.context_complete


async def test_a_copy_whose_client_vanishes_is_not_complete(stub: ContainerServiceStub, engine: FakeEngine) -> None:
    call = stub.CopyIn()
    await call.write(CopyIn(start={"name": "web", "path": "/x"}))
    await call.write(CopyIn(chunk=b"half"))
    await _until(lambda: engine.context == b"half")
    call.cancel()
    await _until(lambda: engine.context_error is not None)
    assert not engine.context_complete


@pytest.mark.parametrize(
    "messages",
    [
        [CopyIn(chunk=b"x")],
        [CopyIn(start={"name": "web"})],
        [CopyIn(start={"name": "web", "path": "/x"}), CopyIn(start={"name": "web", "path": "/x"})],
        [CopyIn(start={"name": "web", "path": "/x"}), CopyIn(chunk=b"x" * ((1 << 20) + 1))],
    ],
)
async def test_a_copy_out_of_order_is_invalid(stub: ContainerServiceStub, messages: list[CopyIn]) -> None:
    async def all_of_them() -> AsyncIterator[CopyIn]:
        for message in messages:
            yield message

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CopyIn(all_of_them())
    assert error_info(caught.value).reason == "INVALID_FIELD"


async def test_export_and_stat(stub: ContainerServiceStub) -> None:
    chunks = [message.chunk async for message in stub.Export(pb.ContainerServiceExportRequest(name="web"))]
    assert chunks == [b"archive"]
    answer = await stub.StatPath(pb.ContainerServiceStatPathRequest(name="web", path="/etc/passwd"))
    assert answer.stat.modified_at.ToNanoseconds() == 1_500_000_001
