"""Streams: their order, what a disconnect does, limits, and the end of the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from shoal.errors import Cancelled, FailedPrecondition
from shoal.v1 import container_pb2 as containers
from shoal.v1 import image_pb2 as images
from shoal.v1 import system_pb2 as system
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoal.v1.system_pb2_grpc import SystemServiceStub
from shoald.api.server import SERVICES
from shoald.config import Limits
from shoald.model.log import Grep
from tests.support.api_server import Running, error_info, serving
from tests.support.fake_engine import FakeEngine

Attach = containers.ContainerServiceAttachRequest
Build = images.ImageServiceBuildRequest


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became true")


def _start(**fields: object) -> Attach:
    return Attach(start={"name": "web", "stdout": True, "stderr": True, "stdin": True, **fields})


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def running(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(engine, tmp_path) as server:
        yield server


@pytest.fixture
async def channel(running: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.socket) as open_channel:
        yield open_channel


async def test_pull_starts_with_started_and_ends_with_the_image(channel: grpc.aio.Channel) -> None:
    call = ImageServiceStub(channel).Pull(images.ImageServicePullRequest(request_id="p1", reference="busybox"))
    kinds = [message.WhichOneof("event") async for message in call]
    assert kinds == ["started", "progress", "progress", "image"]


async def test_push_ends_with_pushed(channel: grpc.aio.Channel) -> None:
    call = ImageServiceStub(channel).Push(images.ImageServicePushRequest(reference="busybox"))
    kinds = [message.WhichOneof("event") async for message in call]
    assert kinds == ["started", "progress", "pushed"]


async def test_build_takes_a_context_and_gives_events_then_the_image(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    archive = os.urandom(3000) + bytes(1024)

    async def requests() -> AsyncIterator[Build]:
        yield Build(start={"request_id": "b1", "dockerfile": b"FROM x", "tags": ["web"], "build_args": {"A": "1"}})
        for at in range(0, len(archive), 1000):
            yield Build(context_chunk=archive[at : at + 1000])

    messages = [message async for message in ImageServiceStub(channel).Build(requests())]
    assert [message.WhichOneof("message") for message in messages] == ["started", *["event"] * 5, "image"]
    assert [message.event.cursor for message in messages[1:-1]] == [1, 2, 3, 4, 5]
    assert engine.context == archive
    request_id, request = engine.asked("build")
    assert (request_id, request.tags, request.build_args) == ("b1", ("docker.io/library/web:latest",), {"A": "1"})


async def test_follow_build_resumes_after_the_cursor(channel: grpc.aio.Channel) -> None:
    request = images.ImageServiceFollowBuildRequest(request_id="b1", cursor=3)
    messages = [message async for message in ImageServiceStub(channel).FollowBuild(request)]
    assert [message.event.cursor for message in messages[:-1]] == [4, 5]
    assert messages[-1].WhichOneof("message") == "image"


async def test_a_build_whose_client_vanishes_during_the_context_never_begins(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    call = ImageServiceStub(channel).Build()
    await call.write(Build(start={"dockerfile": b"FROM x"}))
    await call.write(Build(context_chunk=b"half an archive"))
    await _until(lambda: engine.context != b"")
    call.cancel()
    await _until(lambda: engine.context_error is not None)
    assert not engine.context_complete


async def test_a_context_that_is_cut_off_by_a_half_close_is_cancelled(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    call = ImageServiceStub(channel).Build(
        iter([Build(start={"dockerfile": b"FROM x"}), Build(context_chunk=b"half an archive")])
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert (caught.value.code(), error_info(caught.value).reason) == (
        grpc.StatusCode.CANCELLED,
        "CONTEXT_TRUNCATED",
    )
    assert isinstance(engine.context_error, Cancelled)


async def test_builds_and_their_cache_are_listed_and_pruned(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = ImageServiceStub(channel)
    builds = [item.build async for item in stub.ListBuilds(images.ImageServiceListBuildsRequest())]
    assert [(each.request_id, each.state) for each in builds] == [
        ("b1", images.BuildSummary.STATE_SUCCEEDED),
        ("b2", images.BuildSummary.STATE_RUNNING),
    ]
    assert [each.HasField("ended_at") for each in builds] == [True, False]
    records = [item.record async for item in stub.ListBuildCache(images.ImageServiceListBuildCacheRequest())]
    assert [(each.kind, each.shared, each.in_use) for each in records] == [
        (images.BuildCacheRecord.KIND_LAYER, True, False),
        (images.BuildCacheRecord.KIND_MOUNT, False, True),
    ]
    request = images.ImageServicePruneBuildCacheRequest(all=True, keep_bytes=9)
    request.unused_since.FromSeconds(1000)
    answer = await stub.PruneBuildCache(request)
    assert (list(answer.ids), answer.freed_bytes) == (["a" * 64], 5)
    (wanted,) = engine.asked("prune_build_cache")
    assert (wanted.everything, wanted.keep_bytes, wanted.unused_since.timestamp()) == (True, 9, 1000)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.PruneBuildCache(images.ImageServicePruneBuildCacheRequest(keep_bytes=-1))


async def test_named_contexts_come_after_the_main_one(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    start = {"dockerfile": b"FROM x", "contexts": {"a": "", "b": "docker-image://busybox", "c": ""}}
    end = Build(context_chunk=bytes(1024))
    messages = [Build(start=start), end, Build(context_name="c"), end, Build(context_name="a"), end]
    async for _ in ImageServiceStub(channel).Build(iter(messages)):
        pass
    assert engine.contexts == ["", "c", "a"]
    request = engine.asked("build")[1]
    assert request.contexts == {"a": "", "b": "docker.io/library/busybox:latest", "c": ""}
    for wrong, reason in (
        (messages[:4], "CONTEXT_TRUNCATED"),
        ([*messages[:4], Build(context_name="c"), end], "INVALID_FIELD"),
        ([*messages[:2], Build(context_name="b"), end], "INVALID_FIELD"),
        ([*messages[:2], Build(start=start), end], "INVALID_FIELD"),
        ([Build(start={**start, "contexts": {"A B": ""}})], "INVALID_FIELD"),
        ([Build(start={**start, "contexts": {"a": "oci-layout://x"}})], "INVALID_FIELD"),
        ([Build(start={**start, "secrets": [{"id": "", "value": b""}]})], "INVALID_FIELD"),
        ([Build(start={**start, "secrets": [{"id": "a"}, {"id": "a"}]})], "INVALID_FIELD"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in ImageServiceStub(channel).Build(iter(wrong)):
                pass
        assert error_info(caught.value).reason == reason


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Build(context_chunk=b"x")],
        [Build()],
        [Build(start={"dockerfile": b""})],
        [Build(start={"dockerfile": b"FROM x", "network": "x" * 65})],
        [Build(start={"dockerfile": b"FROM x", "build_args": {"": "x"}})],
        [Build(start={"dockerfile": b"FROM x", "request_id": "no spaces"})],
        [Build(start={"dockerfile": b"FROM x", "tags": ["UPPER"]})],
        [Build(start={"dockerfile": b"FROM x"}), Build(start={"dockerfile": b"FROM x"})],
        [Build(start={"dockerfile": b"FROM x"}), Build(context_chunk=bytes((1 << 20) + 1))],
    ],
)
async def test_a_build_stream_out_of_order_is_invalid(
    channel: grpc.aio.Channel, engine: FakeEngine, messages: list[Build]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in ImageServiceStub(channel).Build(iter(messages)):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not engine.context_complete


async def test_logs_carry_times_streams_and_cursors(channel: grpc.aio.Channel) -> None:
    call = ContainerServiceStub(channel).Logs(containers.ContainerServiceLogsRequest(name="web"))
    batches = [message async for message in call]
    assert [batch.cursor for batch in batches] == ["0", "1", "2"]
    record = batches[1].records[0]
    assert (record.time.seconds, record.time.nanos) == (1_700_000_000, 123_456_790)
    assert (record.stream, record.data) == (containers.LogRecord.STREAM_STDERR, b"line 1\n")


async def test_what_of_logs_is_wanted_reaches_the_engine(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    request = containers.ContainerServiceLogsRequest(
        name="web", grep="a.b", grep_regex=True, grep_invert=True, grep_ignore_case=True, accept_raw=True
    )
    async for _ in ContainerServiceStub(channel).Logs(request):
        pass
    (query,) = [arguments[1] for name, arguments in engine.calls if name == "logs"]
    assert query.grep == Grep("a.b", True, True, True)
    assert query.raw
    with pytest.raises(grpc.aio.AioRpcError, match="grep"):
        await (
            ContainerServiceStub(channel)
            .Logs(containers.ContainerServiceLogsRequest(name="web", grep_invert=True))
            .read()
        )


async def test_a_follower_that_leaves_closes_its_iterator(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    engine.hang = True
    call = ContainerServiceStub(channel).Logs(containers.ContainerServiceLogsRequest(name="web", follow=True))
    await call.read()
    await _until(lambda: engine.open_streams == 1)
    call.cancel()
    await _until(lambda: engine.open_streams == 0)


async def test_a_slow_reader_holds_the_engine_back(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    engine.log_lines, engine.log_line = 10_000, b"x" * 10_000
    call = ContainerServiceStub(channel).Logs(containers.ContainerServiceLogsRequest(name="web"))
    await call.read()
    given = -1
    while given != engine.lines_given:  # until it stands still
        given = engine.lines_given
        await asyncio.sleep(0.2)
    assert given < engine.log_lines / 4
    read = 1
    while await call.read() is not grpc.aio.EOF:
        read += 1
    assert read == engine.log_lines


async def test_attach_carries_input_output_size_and_exit(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    call = ContainerServiceStub(channel).Attach()
    await call.write(_start(cursor="start"))
    first = await call.read()
    assert first.WhichOneof("message") == "attached"
    assert engine.asked("attach") == ("web", "start", True, True, True)
    await call.write(Attach(stdin=b"hello"))
    echo = await call.read()
    assert (echo.output.records[0].data, echo.output.cursor) == (b"hello", "1")
    await call.write(Attach(resize={"rows": 24, "columns": 80}))
    await call.write(Attach(stdin_eof={}))
    last = await call.read()
    assert last.exit.exit_code == 7
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    (session,) = engine.sessions
    assert session.sizes == [(24, 80)]
    assert session.closed


async def test_a_half_close_detaches_and_input_stays_open(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    call = ContainerServiceStub(channel).Attach()
    await call.write(_start())
    await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert engine.sessions[0].closed


async def test_a_container_that_no_longer_reads_still_gives_its_output_and_exit(
    channel: grpc.aio.Channel, engine: FakeEngine
) -> None:
    engine.stdin_error = FailedPrecondition("gone", reason="NOT_RUNNING")
    call = ContainerServiceStub(channel).Attach()
    await call.write(_start())
    await call.read()
    await call.write(Attach(stdin=b"too late"))
    session = engine.sessions[0]
    session.emit(b"last words")
    session.exit(3)
    assert (await call.read()).output.records[0].data == b"last words"
    assert (await call.read()).exit.exit_code == 3


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Attach(stdin=b"x")],
        [_start(name="")],
        [_start(), _start()],
        [_start(stdin=False), Attach(stdin=b"x")],
        [_start(), Attach(resize={"rows": 0, "columns": 80})],
        [_start(), Attach(resize={"rows": 1, "columns": 65536})],
        [_start(), Attach()],
    ],
)
async def test_an_attach_stream_out_of_order_is_invalid(
    channel: grpc.aio.Channel, engine: FakeEngine, messages: list[Attach]
) -> None:
    async def requests() -> AsyncIterator[Attach]:
        for message in messages:
            yield message
        if len(messages) > 1:
            await asyncio.sleep(60)  # a half-close would detach

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in ContainerServiceStub(channel).Attach(requests()):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert all(session.closed for session in engine.sessions)


async def test_opening_and_cutting_leaves_no_task_descriptor_or_session(running: Running, engine: FakeEngine) -> None:
    engine.hang = True

    async def cycle(number: int) -> None:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            stub = ContainerServiceStub(channel)
            if number % 2:
                call = stub.Attach()
                await call.write(_start())
                await call.read()
                await call.write(Attach(stdin=b"x"))
            else:
                follow = stub.Logs(containers.ContainerServiceLogsRequest(name="web", follow=True))
                await follow.read()
            # the channel closes with the call open: what a lost link looks like

    async def settled() -> tuple[int, int]:
        await _until(lambda: running.server.active_calls == 0 and engine.open_streams == 0)
        await _until(lambda: len(asyncio.all_tasks()) <= tasks)
        return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

    tasks = 10**6
    for number in range(10):
        await cycle(number)
    await asyncio.sleep(0.5)
    tasks = len(asyncio.all_tasks())
    before = await settled()
    for number in range(200):
        await cycle(number)
    await asyncio.sleep(0.5)
    after = await settled()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 2
    assert all(session.closed for session in engine.sessions)
    assert running.counts.active == 0


async def test_a_message_over_the_limit_is_refused_and_the_connection_goes_on(channel: grpc.aio.Channel) -> None:
    stub = ContainerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Start(containers.ContainerServiceStartRequest(name="x" * (5 << 20)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stub.Start(containers.ContainerServiceStartRequest(name="web"))


async def test_headers_over_the_limit_are_refused_and_the_connection_goes_on(channel: grpc.aio.Channel) -> None:
    stub = SystemServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Ping(system.SystemServicePingRequest(), metadata=(("x-big", "x" * 20_000),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stub.Ping(system.SystemServicePingRequest())


async def test_calls_over_the_limit_are_refused_on_tcp_but_the_local_admin_gets_in(tmp_path: Path) -> None:
    from shoal.pki import Role
    from tests.support.api_server import Fleet, credentials

    fleet, engine = Fleet.make(tmp_path), FakeEngine(hang=True)
    async with serving(engine, tmp_path, tls=fleet.tls, limits=Limits(max_calls=3)) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("flood", Role.READER))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            stub = ContainerServiceStub(channel)
            waiting = [stub.Wait(containers.ContainerServiceWaitRequest(name="web")) for _ in range(3)]
            await _until(lambda: engine.open_streams == 3)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Wait(containers.ContainerServiceWaitRequest(name="web"))
            assert error_info(caught.value).reason == "TOO_MANY_CALLS"
            async with grpc.aio.insecure_channel(running.socket) as local:
                await SystemServiceStub(local).Ping(system.SystemServicePingRequest())
            engine.block.set()
            await asyncio.gather(*waiting)


async def test_the_end_of_the_daemon_ends_streams_with_a_reason_and_lets_short_calls_finish(tmp_path: Path) -> None:
    engine = FakeEngine(hang=True)
    async with serving(engine, tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            events = SystemServiceStub(channel).Events(system.SystemServiceEventsRequest())
            await events.read()
            short = ContainerServiceStub(channel).Wait(containers.ContainerServiceWaitRequest(name="web"))
            await _until(lambda: engine.open_streams == 2)
            stopping = asyncio.ensure_future(running.server.stop())
            await events.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await events.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert error_info(caught.value).reason == "SHUTTING_DOWN"
            engine.block.set()
            assert (await short).exit_code == 137
            await stopping
        assert not (running.config.socket_path or Path("x")).exists()


async def test_health_is_served_for_the_whole_and_each_service(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_and_gives_their_files(channel: grpc.aio.Channel, version: str) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="shoal.v1.ContainerService"),
    ]
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = [answer async for answer in method(iter(requests))]
    listed = {service.name for service in answers[0].list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= listed
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/shoal.v1.ContainerService/Destroy", bytes, bytes)(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_message_reach_no_engine(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/shoal.v1.ContainerService/Start", bytes, bytes)(b"\xff\xff\xff")
    assert engine.calls == []
