"""Every class of error over the wire, and what nobody foresaw."""

from __future__ import annotations

import errno
from pathlib import Path

import grpc
import pytest
import structlog

from shoal.errors import BY_CODE, NotFound, ShoalError
from shoal.v1 import image_pb2 as pb
from shoal.v1 import system_pb2
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoal.v1.system_pb2_grpc import SystemServiceStub
from tests.support.api_server import error_info, serving
from tests.support.fake_engine import FakeEngine

SECRET = "hunter2"


async def _failure(tmp_path: Path, error: Exception) -> grpc.aio.AioRpcError:
    """How a unary call fails when the engine raises `error`."""
    async with serving(FakeEngine(error=error), tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ImageServiceStub(channel).Tag(pb.ImageServiceTagRequest(source="a", target="b"))
            return caught.value


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
async def test_each_class_keeps_code_message_reason_and_metadata(tmp_path: Path, kind: type[ShoalError]) -> None:
    error = await _failure(tmp_path, kind("a: b\nc é", reason="SOME_REASON", hint="do this", metadata={"key": "v"}))
    info = error_info(error)
    assert error.code() is grpc.StatusCode[kind.code]
    assert error.details() == "a: b\nc é"
    assert (info.reason, info.domain, dict(info.metadata)) == ("SOME_REASON", "shoal", {"hint": "do this", "key": "v"})


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
async def test_each_class_ends_a_stream(tmp_path: Path, kind: type[ShoalError]) -> None:
    async with serving(FakeEngine(error=kind("no")), tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            call = ImageServiceStub(channel).Pull(pb.ImageServicePullRequest(reference="a"))
            assert (await call.read()).WhichOneof("event") == "started"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert error_info(caught.value).reason == kind.default_reason


async def test_an_unforeseen_error_is_internal_with_an_id_that_is_in_the_log(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        error = await _failure(tmp_path, ValueError(f"password={SECRET}"))
    assert error.code() is grpc.StatusCode.INTERNAL
    info = error_info(error)
    logged = [entry for entry in logs if info.metadata["error_id"] in entry["event"]]
    assert len(logged) == 1
    assert isinstance(logged[0]["exc_info"], ValueError)
    assert SECRET not in str(error) + str(info)


async def test_a_full_disk_is_resource_exhausted_wherever_it_is_noticed(tmp_path: Path) -> None:
    error = await _failure(tmp_path, OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(error).reason == "DISK_FULL"


async def test_a_huge_error_is_cut_to_what_a_trailer_may_hold(tmp_path: Path) -> None:
    huge = NotFound("é" * 100_000, hint="short", metadata={"command": "x" * 100_000, "output": "\ud800" * 9000})
    error = await _failure(tmp_path, huge)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert len(error.details() or "") == 1000
    assert error_info(error).metadata["hint"] == "short"


async def test_the_trace_id_of_the_client_comes_back_and_a_bad_one_is_replaced(tmp_path: Path) -> None:
    async with serving(FakeEngine(), tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            ping = SystemServiceStub(channel).Ping
            for sent, kept in (("abc-1", True), ("evil id {}", False)):
                call = ping(system_pb2.SystemServicePingRequest(), metadata=(("x-request-id", sent),))
                await call
                trailers = dict(await call.trailing_metadata() or ())
                assert (trailers["x-request-id"] == sent) is kept


async def test_audit_names_who_and_what_and_holds_no_secret(tmp_path: Path) -> None:
    credentials = {"username": "me", "password": SECRET, "identity_token": SECRET}
    with structlog.testing.capture_logs() as logs:
        async with serving(FakeEngine(), tmp_path) as running:
            async with grpc.aio.insecure_channel(running.socket) as channel:
                request = pb.ImageServicePullRequest(request_id="op-1", reference="busybox", credentials=credentials)
                async for _ in ImageServiceStub(channel).Pull(request):
                    pass
                await SystemServiceStub(channel).Info(system_pb2.SystemServiceInfoRequest())
    audit = [entry for entry in logs if entry["event"] == "audit"]
    assert len(audit) == 1  # reading is not in it
    entry = audit[0]
    assert entry["method"] == "/shoal.v1.ImageService/Pull"
    assert (entry["who"], entry["role"], entry["code"]) == ("unix-socket", "admin", "OK")
    assert (entry["operation_id"], entry["target"]) == ("op-1", "busybox")
    assert SECRET not in str(logs)
