"""Save, Load and EstimateBuild over the wire; contexts by manifest and caches in a build's start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal.v1 import image_pb2 as pb
from shoal.v1 import types_pb2
from shoal.v1.image_pb2_grpc import ImageServiceStub
from shoald.model.build import CacheExport, CacheTarget, LentCache
from tests.support.api_server import serving
from tests.support.fake_engine import IMAGE, FakeEngine

DIGEST = "sha256:" + "a" * 64
LENT = {"handle": "h" * 16, "name": "./cache", "media_type": "x/y", "digest": DIGEST, "size_bytes": 5}


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def images(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[ImageServiceStub]:
    async with serving(engine, tmp_path) as running, grpc.aio.insecure_channel(running.socket) as opened:
        yield ImageServiceStub(opened)


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


async def test_save(images: ImageServiceStub, engine: FakeEngine) -> None:
    request = pb.ImageServiceSaveRequest(names=["a", "b"], docker=True)
    assert [item.chunk async for item in images.Save(request)] == [b"archive"]
    assert engine.asked("save_images") == (("a", "b"), True)
    assert "names" in await refused(images.Save(pb.ImageServiceSaveRequest()))


async def test_load(images: ImageServiceStub, engine: FakeEngine) -> None:
    message = pb.ImageServiceLoadRequest
    answers = [item async for item in images.Load(iter([message(chunk=b"ab"), message(), message(chunk=b"c")]))]
    assert [item.WhichOneof("event") for item in answers] == ["progress", "image"]
    assert (answers[-1].image.id, list(answers[-1].names)) == (IMAGE.id, ["web:1"])
    assert engine.asked("load_images") == (b"abc",)
    assert "chunk" in await refused(images.Load(iter([message(chunk=bytes((1 << 20) + 1))])))


async def test_a_cache_is_read(images: ImageServiceStub, engine: FakeEngine) -> None:
    request = pb.ImageServiceReadCacheBlobRequest
    answers = images.ReadCacheBlob(request(request_id="b", digest=DIGEST, offset=3))
    assert [item.chunk async for item in answers] == [b"blob"]
    assert engine.asked("read_cache_blob") == ("b", DIGEST, 3)
    for fields in ({"digest": DIGEST}, {"request_id": "b"}, {"request_id": "b", "digest": DIGEST, "offset": -1}):
        await refused(images.ReadCacheBlob(request(**fields)))  # type: ignore[arg-type]


async def test_what_a_build_is_told(images: ImageServiceStub, engine: FakeEngine) -> None:
    start = pb.ImageServiceBuildRequest.Start(
        dockerfile=b"FROM scratch",
        contexts={"more": ""},
        context_manifests={"": DIGEST, "more": DIGEST},
        cache_from=["example.com/cache"],
        cache_to=[pb.ImageServiceBuildRequest.CacheTarget(reference="example.com/to", all_steps=True)],
        lent_caches=[pb.ImageServiceBuildRequest.LentCache(**LENT)],
        cache_exports=[pb.ImageServiceBuildRequest.CacheExport(all_steps=True)],
        build_args={"BUILDKIT_INLINE_CACHE": "1"},
        cache_credentials=[types_pb2.RegistryCredentials(username="u", password="p", registry="example.com")],
    )
    answer = await images.EstimateBuild(pb.ImageServiceEstimateBuildRequest(start=start))
    assert (answer.cached_steps, answer.context_held, answer.platform.os) == (3, True, "linux")
    (request,) = engine.asked("estimate_build")
    assert request.manifests == {"": DIGEST, "more": DIGEST}
    assert request.cache_from == ("example.com/cache:latest",)
    assert request.cache_to == (CacheTarget("example.com/to:latest", all_steps=True),)
    assert request.lent_caches == (LentCache("h" * 16, "./cache", "x/y", DIGEST, 5),)
    assert request.cache_exports == (CacheExport(all_steps=True),)
    assert request.inline_cache
    assert [each.registry for each in request.cache_credentials] == ["example.com"]


@pytest.mark.parametrize(
    "fields",
    [
        {"context_manifests": {"": "sha256:short"}},
        {"context_manifests": {"unknown": DIGEST}},
        {"contexts": {"more": "docker-image://busybox"}, "context_manifests": {"more": DIGEST}},
        {"cache_from": ["UPPER"]},
        {"cache_from": [""]},
        {"cache_to": [{"reference": ""}]},
        {"lent_caches": [{**LENT, "handle": "short"}]},
        {"lent_caches": [{**LENT, "digest": ""}]},
        {"lent_caches": [{**LENT, "digest": "sha256:../x"}]},
        {"lent_caches": [{**LENT, "size_bytes": -1}]},
        {"cache_exports": [{}, {}]},
        {"cache_credentials": [{"username": "u", "password": "p"}]},
    ],
)
async def test_what_a_build_cannot_be_told(images: ImageServiceStub, fields: dict[str, Any]) -> None:
    start = pb.ImageServiceBuildRequest.Start(dockerfile=b"FROM scratch", **fields)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await images.EstimateBuild(pb.ImageServiceEstimateBuildRequest(start=start))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_nothing_is_sent_of_a_context_by_manifest(images: ImageServiceStub, engine: FakeEngine) -> None:
    message = pb.ImageServiceBuildRequest
    start = message(start=message.Start(dockerfile=b"FROM scratch", context_manifests={"": DIGEST}))
    assert "nothing is sent" in await refused(images.Build(iter([start, message(context_chunk=b"x")])))
    async for _ in images.Build(iter([start])):
        pass
    named = message.Start(dockerfile=b"FROM scratch", context_manifests={"": DIGEST}, contexts={"more": ""})
    chunks = [message(start=named), message(context_name="more"), message(context_chunk=bytes(1024))]
    async for _ in images.Build(iter(chunks)):
        pass
    assert "not a context" in await refused(images.Build(iter([start, message(context_name="other")])))
