"""VolumeService and FileService over the wire: what the engine is asked, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal.errors import NotFound
from shoal.v1 import file_pb2, volume_pb2
from shoal.v1.file_pb2_grpc import FileServiceStub
from shoal.v1.volume_pb2_grpc import VolumeServiceStub
from shoald.engine.volume_ports import VolumeFilter
from shoald.model.file import TreeEntry
from tests.support.api_server import error_info, serving
from tests.support.fake_engine import CONTAINER, FakeEngine


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def channel(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(engine, tmp_path) as running, grpc.aio.insecure_channel(running.socket) as opened:
        yield opened


async def test_volumes(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = VolumeServiceStub(channel)
    request = volume_pb2.VolumeServiceListRequest(labels=[{"key": "tier"}], name="da", dangling=True)
    [listed] = [item.volume async for item in stub.List(request)]
    assert (listed.name, dict(listed.labels), dict(listed.options)) == ("data", {"tier": "db"}, {"type": "tmpfs"})
    assert engine.asked("list_volumes") == (VolumeFilter((("tier", ""),), "da", True),)
    made = await stub.Create(volume_pb2.VolumeServiceCreateRequest(labels={"a": "b"}, options={"type": "tmpfs"}))
    assert (made.volume.name, made.volume.anonymous) == ("random", True)
    assert engine.asked("create_volume") == ("", {"a": "b"}, {"type": "tmpfs"})
    found = await stub.Inspect(volume_pb2.VolumeServiceInspectRequest(name="data"))
    assert (list(found.containers), found.size_bytes) == ([CONTAINER.id], 4096)
    pruned = await stub.Prune(volume_pb2.VolumeServicePruneRequest(all=True, labels=[{"key": "k", "value": "v"}]))
    assert (list(pruned.names), pruned.freed_bytes) == (["old"], 4096)
    assert engine.asked("prune_volumes") == (True, (("k", "v"),))
    chunks = [item.chunk async for item in stub.Export(volume_pb2.VolumeServiceExportRequest(name="data"))]
    assert chunks == [b"one", b"two"]


async def test_import_takes_a_name_and_then_chunks(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    message = volume_pb2.VolumeServiceImportRequest
    stub = VolumeServiceStub(channel)
    await stub.Import(iter([message(name="data"), message(chunk=b"ab"), message(chunk=b"c")]))
    assert engine.asked("import_volume") == ("data",)
    assert engine.context == b"abc"
    for wrong in (
        [],
        [message(chunk=b"x")],
        [message(name="")],
        [message(name="data"), message(name="data")],
        [message(name="data"), message(chunk=bytes((1 << 20) + 1))],
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Import(iter(wrong))
        assert error_info(caught.value).reason == "INVALID_FIELD"


async def test_files(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    stub = FileServiceStub(channel)
    missing = await stub.Missing(file_pb2.FileServiceMissingRequest(digests=["sha256:a"]))
    assert list(missing.digests) == ["sha256:a"]
    message = file_pb2.FileServicePutRequest
    parts: list[Any] = [
        message(begin=message.Begin(digest="sha256:a", size_bytes=3)),
        message(chunk=b"a"),
        message(chunk=b"aa"),
        message(begin=message.Begin(digest="sha256:empty")),
        message(begin=message.Begin(digest="sha256:b", size_bytes=1)),
        message(chunk=b"b"),
    ]
    await stub.Put(iter(parts))
    assert engine.blobs == {"sha256:a": b"aaa", "sha256:empty": b"", "sha256:b": b"b"}
    await stub.Put(iter([]))
    kind = file_pb2.FileServiceAssembleRequest.Entry
    entries = [
        kind(path="d", directory=kind.Directory(), mode=0o755, modified_ns=1),
        kind(path="d/f", blob="sha256:a", mode=0o600),
        kind(path="l", link="d"),
    ]
    answer = await stub.Assemble(file_pb2.FileServiceAssembleRequest(entries=entries))
    assert answer.digest == "sha256:" + "4" * 64
    assert engine.asked("assemble") == (
        (
            TreeEntry("d", directory=True, mode=0o755, modified_ns=1),
            TreeEntry("d/f", blob="sha256:a", mode=0o600),
            TreeEntry("l", link="d"),
        ),
    )
    await stub.Replace(file_pb2.FileServiceReplaceRequest(name="web", target="/c", digest=answer.digest))
    assert engine.asked("replace_files") == ("web", "/c", answer.digest)


async def test_secrets_are_held_or_given_and_never_logged(
    channel: grpc.aio.Channel, engine: FakeEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    stub = FileServiceStub(channel)
    held = await stub.PutSecret(file_pb2.FileServicePutSecretRequest(value=b"planted-value", mode=0o440))
    assert held.handle == "handle"
    request = file_pb2.FileServicePutSecretRequest(value=b"planted-value", container="web", target="/s")
    assert (await stub.PutSecret(request)).handle == ""
    assert engine.asked("put_secret") == (b"planted-value", 0, "web", "/s")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.PutSecret(file_pb2.FileServicePutSecretRequest(value=b"planted-value", container="web"))
    engine.error = NotFound("no such container")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.PutSecret(request)
    assert "planted-value" not in "".join(capfd.readouterr())


async def test_a_put_that_does_not_begin(channel: grpc.aio.Channel) -> None:
    message = file_pb2.FileServicePutRequest
    begin = message(begin=message.Begin(digest="sha256:a", size_bytes=3))
    for wrong in ([message(chunk=b"x")], [message()], [begin, message()], [begin, message(chunk=bytes((1 << 20) + 1))]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await FileServiceStub(channel).Put(iter(wrong))
        assert error_info(caught.value).reason == "INVALID_FIELD"


async def test_small_blobs_come_together(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    message = file_pb2.FileServicePutRequest
    batch = message(batch=message.Batch(blobs=[message.Blob(digest="d1", content=b"1"), message.Blob(digest="d2")]))
    large = [message(begin=message.Begin(digest="d3", size_bytes=2)), message(chunk=b"3"), message(chunk=b"3")]
    await FileServiceStub(channel).Put(iter([batch, *large, batch]))
    assert engine.blobs == {"d1": b"1", "d2": b"", "d3": b"33"}
    too_large = message(batch=message.Batch(blobs=[message.Blob(digest="d", content=bytes(1 << 19))] * 3))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await FileServiceStub(channel).Put(iter([too_large]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_what_a_context_lacks(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    request = file_pb2.FileServicePrepareContextRequest(digest="sha256:1")
    for count, told, more in ((0, 0, False), (20_000, 20_000, False), (20_001, 20_000, True)):
        engine.lacking = [str(number) for number in range(count)]
        answer = await FileServiceStub(channel).PrepareContext(request)
        assert (len(answer.missing), answer.more) == (told, more)
    assert engine.asked("prepare_context") == ("sha256:1",)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await FileServiceStub(channel).PrepareContext(file_pb2.FileServicePrepareContextRequest())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
