"""What every Registry does: the one in memory, and the client against a real docker-registry."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from shoal.reference import Reference
from shoald.oci.manifest import Descriptor, Index, Manifest
from shoald.oci.mediatypes import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from shoald.oci.parse import parse_manifest
from shoald.oci.select import select_platform
from shoald.registry.client import RegistryClient
from shoald.registry.ports import Credentials, OpenBody, Registry
from shoald.registry.verify import read_blob
from tests.support.docker_registry import DockerRegistry, docker_registry
from tests.support.fake_registry import FakeRegistry
from tests.support.images import make_image, make_index, push_built

LOGIN = Credentials(username="ada", password="correct horse")


@pytest.fixture(scope="module")
def open_server() -> Iterator[DockerRegistry]:
    with docker_registry() as server:
        yield server


@pytest.fixture(scope="module")
def closed_server() -> Iterator[DockerRegistry]:
    with docker_registry(login=(LOGIN.username, LOGIN.password)) as server:
        yield server


@dataclass
class Site:
    """A registry and the address of an empty place in it."""

    registry: Registry
    prefix: str

    def ref(self, name: str) -> Reference:
        return Reference.parse(f"{self.prefix}/{name}")


@pytest.fixture(params=["fake", "real"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    registry: Registry
    if request.param == "fake":
        registry, address = FakeRegistry(), "127.0.0.1:5000"
    else:
        registry, address = RegistryClient(), request.getfixturevalue("open_server").address
    yield Site(registry, f"{address}/{random.randbytes(6).hex()}")
    await registry.close()
    gc.collect()  # what is not closed warns, and warnings fail


@pytest.fixture(params=["fake", "real"])
async def closed_site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    registry: Registry
    if request.param == "fake":
        registry, address = FakeRegistry(login=LOGIN), "127.0.0.1:5000"
    else:
        registry, address = RegistryClient(), request.getfixturevalue("closed_server").address
    yield Site(registry, f"{address}/{random.randbytes(6).hex()}")
    await registry.close()


def body_of(*parts: bytes) -> OpenBody:
    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return chunks


def layer_of(data: bytes) -> Descriptor:
    return Descriptor.of(data, OCI_LAYER)


async def whole(registry: Registry, ref: Reference, descriptor: Descriptor, offset: int = 0) -> list[bytes]:
    async with registry.blob(ref, descriptor, offset) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.parametrize(("docker", "media_type"), [(False, OCI_MANIFEST), (True, DOCKER_MANIFEST)])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_image_comes_back_as_it_went(site: Site, docker: bool, media_type: str, compression: str) -> None:
    image = make_image([{"a": "one"}, {"b": "two"}], {"Cmd": ["a"]}, docker=docker, compression=compression)
    ref = site.ref("app:1")
    digest = await push_built(site.registry, ref, [image], docker=docker)
    found = await site.registry.resolve(ref)
    assert digest == found.descriptor.digest == image.digest
    assert found.body == image.manifest
    assert found.descriptor.media_type == media_type
    assert found.descriptor.size == len(image.manifest)
    manifest = parse_manifest(found.body, found.descriptor.media_type)
    assert isinstance(manifest, Manifest)
    assert await read_blob(site.registry, ref, manifest.config) == image.config
    for layer in manifest.layers:
        assert b"".join(await whole(site.registry, ref, layer)) == image.blobs[layer.digest][1]


@pytest.mark.parametrize(("docker", "media_type"), [(False, OCI_INDEX), (True, DOCKER_INDEX)])
async def test_index_leads_to_its_manifests(site: Site, docker: bool, media_type: str) -> None:
    images = [make_image([{"a": p}], docker=docker, platform=p) for p in ("linux/amd64", "linux/arm64")]
    ref = site.ref("multi:1")
    digest = await push_built(site.registry, ref, images, docker=docker)
    found = await site.registry.resolve(ref)
    assert (found.descriptor.digest, found.descriptor.media_type) == (digest, media_type)
    index = parse_manifest(found.body, media_type)
    assert isinstance(index, Index)
    entry = select_platform(index, images[1].platform)
    assert await site.registry.manifest(ref, entry) == images[1].manifest


async def test_resolve_by_digest(site: Site) -> None:
    image = make_image([{"a": "x"}])
    await push_built(site.registry, site.ref("app:1"), [image])
    found = await site.registry.resolve(site.ref(f"app@{image.digest}"))
    assert found.body == image.manifest
    with pytest.raises(NotFound) as caught:
        await site.registry.resolve(site.ref(f"app@{Digest.of(b'other')}"))
    assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_a_moved_tag_gives_the_new_image(site: Site) -> None:
    ref = site.ref("app:latest")
    old, new = make_image([{"a": "old"}]), make_image([{"a": "new"}])
    await push_built(site.registry, ref, [old])
    await push_built(site.registry, ref, [new])
    assert (await site.registry.resolve(site.ref("app"))).descriptor.digest == new.digest
    assert (await site.registry.resolve(site.ref(f"app@{old.digest}"))).body == old.manifest


async def test_missing_image_is_named(site: Site) -> None:
    await push_built(site.registry, site.ref("app:1"), [make_image([{"a": "x"}])])
    for name in ("app:2", "nothing:1"):
        with pytest.raises(NotFound, match=f"manifest for .*/{name} not found") as caught:
            await site.registry.resolve(site.ref(name))
        assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_manifest_is_checked_against_its_descriptor(site: Site) -> None:
    image = make_image([{"a": "x"}])
    ref = site.ref("app:1")
    await push_built(site.registry, ref, [image])
    wrong = Descriptor(media_type=OCI_MANIFEST, digest=image.digest, size=image.descriptor.size + 1)
    with pytest.raises(DataLoss) as caught:
        await site.registry.manifest(ref, wrong)
    assert caught.value.reason == "SIZE_MISMATCH"
    with pytest.raises(InvalidArgument) as refused:
        await site.registry.manifest(
            ref, Descriptor(media_type=OCI_INDEX, digest=image.digest, size=len(image.manifest))
        )
    assert refused.value.reason == "BAD_MANIFEST"


@pytest.mark.parametrize("size", [0, 1, 262_144, 3_000_001])
async def test_blob_in_big_chunks_from_any_offset(site: Site, size: int) -> None:
    data = random.Random(size).randbytes(size)
    ref, layer = site.ref("blobs"), layer_of(data)
    assert not await site.registry.blob_exists(ref, layer)
    seen: list[int] = []
    sent = await site.registry.push_blob(
        ref, layer, body_of(data[: size // 2], data[size // 2 :]), progress=seen.append
    )
    assert sent
    assert seen[-1] == size
    assert await site.registry.blob_exists(ref, layer)
    for offset in sorted({0, size // 3, size}):
        chunks = await whole(site.registry, ref, layer, offset)
        assert b"".join(chunks) == data[offset:]
        assert all(len(chunk) >= 262_144 for chunk in chunks[:-1])


async def test_blob_that_is_there_is_not_sent_again(site: Site) -> None:
    data = b"layer" * 1000
    ref, layer = site.ref("app"), layer_of(data)
    assert await site.registry.push_blob(ref, layer, body_of(data))

    def refuse() -> AsyncIterator[bytes]:
        raise AssertionError("opened")

    assert not await site.registry.push_blob(ref, layer, refuse)
    assert not await site.registry.push_blob(site.ref("other"), layer, refuse, mount_from=ref.path)
    assert b"".join(await whole(site.registry, site.ref("other"), layer)) == data


async def test_mount_from_where_it_is_not_sends(site: Site) -> None:
    data = b"fresh" * 1000
    assert await site.registry.push_blob(site.ref("app"), layer_of(data), body_of(data), mount_from=site.ref("no").path)
    assert b"".join(await whole(site.registry, site.ref("app"), layer_of(data))) == data


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"short", "SIZE_MISMATCH"), (b"much too long", "SIZE_MISMATCH"), (b"otherwise!", "DIGEST_MISMATCH")],
)
async def test_push_of_other_content_than_described(site: Site, content: bytes, reason: str) -> None:
    ref, layer = site.ref("app"), layer_of(b"as it was!")
    with pytest.raises(DataLoss) as caught:
        await site.registry.push_blob(ref, layer, body_of(content))
    assert caught.value.reason == reason
    assert not await site.registry.blob_exists(ref, layer)


async def test_failure_of_the_source_is_what_is_raised(site: Site) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        await site.registry.push_blob(site.ref("app"), layer_of(b"abc"), broken)


async def test_manifest_without_its_parts_is_refused(site: Site) -> None:
    image = make_image([{"a": "nobody has this"}])
    with pytest.raises(FailedPrecondition):
        await site.registry.push_manifest(site.ref("app:1"), image.manifest, OCI_MANIFEST)
    index, media_type = make_index([image])
    with pytest.raises(FailedPrecondition):
        await site.registry.push_manifest(site.ref("app:1"), index, media_type)


async def test_push_under_a_digest_that_is_not_its_own(site: Site) -> None:
    image = make_image([{"a": "x"}])
    await push_built(site.registry, site.ref("app:1"), [image])
    with pytest.raises(DataLoss) as caught:
        await site.registry.push_manifest(site.ref("app"), image.manifest, OCI_MANIFEST, str(Digest.of(b"other")))
    assert caught.value.reason == "DIGEST_MISMATCH"


async def test_missing_blob(site: Site) -> None:
    with pytest.raises(NotFound) as caught:
        await whole(site.registry, site.ref("app"), layer_of(b"never pushed"))
    assert caught.value.reason == "BLOB_NOT_FOUND"


async def test_reading_may_stop_anywhere(site: Site) -> None:
    data = random.Random(7).randbytes(8_000_000)
    ref, layer = site.ref("app"), layer_of(data)
    await site.registry.push_blob(ref, layer, body_of(data))
    async with site.registry.blob(ref, layer) as chunks:
        assert data.startswith(await anext(chunks))

    async def read() -> None:
        async with site.registry.blob(ref, layer) as chunks:
            async for _ in chunks:
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"".join(await whole(site.registry, ref, layer)) == data


async def test_many_blobs_at_once(site: Site) -> None:
    blobs = [random.Random(n).randbytes(300_000 + n) for n in range(12)]
    ref = site.ref("app")
    await asyncio.gather(*(site.registry.push_blob(ref, layer_of(b), body_of(b)) for b in blobs))
    found = await asyncio.gather(*(whole(site.registry, ref, layer_of(b)) for b in blobs))
    assert [b"".join(parts) for parts in found] == blobs


async def test_login(closed_site: Site) -> None:
    image, ref, registry = make_image([{"a": "x"}]), closed_site.ref("app:1"), closed_site.registry
    assert await push_built(registry, ref, [image], credentials=LOGIN) == image.digest
    assert (await registry.resolve(ref, credentials=LOGIN)).body == image.manifest
    for wrong in (None, Credentials(username=LOGIN.username, password="hunter2")):
        with pytest.raises(Unauthenticated) as caught:
            await registry.resolve(ref, credentials=wrong)
        assert caught.value.reason == "REGISTRY_AUTH"
        assert "hunter2" not in repr(caught.value) + str(caught.value.metadata)
    assert (await registry.resolve(ref, credentials=LOGIN)).body == image.manifest
