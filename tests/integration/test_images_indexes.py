"""Indexes on a host: their images come again in another wrapping, or from a registry; and archives of odd ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.digest import Digest
from shoal.reference import Reference
from shoald.gc import collect
from shoald.model.image import IndexRecord
from shoald.oci.manifest import Descriptor, Index, encode
from shoald.oci.mediatypes import OCI_INDEX
from tests.support.fake_registry import FakeRegistry
from tests.support.image_host import ImageHost, image_host
from tests.support.images import TestImage, make_image, make_index, push_built
from tests.support.layers import File

pytestmark = [pytest.mark.root]

NAME = "r.test/app:1"
PLATFORMS = ("linux/amd64", "linux/arm64")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ImageHost]:
    async with image_host(tmp_path / "root", FakeRegistry()) as opened:
        yield opened


def images(compression: str = "gzip") -> list[TestImage]:
    return [make_image([{"arch": File(each.encode())}], platform=each, compression=compression) for each in PLATFORMS]


def layout(root: Path, entries: Sequence[Descriptor], bodies: Sequence[bytes], **annotations: str) -> Path:
    """An OCI image layout, unpacked."""
    (root / "blobs/sha256").mkdir(parents=True)
    for body in bodies:
        (root / "blobs/sha256" / Digest.of(body).hex).write_bytes(body)
    listed: list[dict[str, Any]] = [{**msgspec.to_builtins(each), "annotations": annotations} for each in entries]
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))
    return root


def bodies(made: Sequence[TestImage]) -> list[bytes]:
    return [body for each in made for body in (each.manifest, *(body for _, body in each.blobs.values()))]


async def loaded(host: ImageHost, root: Path, made: Sequence[TestImage]) -> IndexRecord:
    """An index of these, loaded as NAME."""
    body, media_type = make_index(made)
    entry = Descriptor.of(body, media_type)
    await host.store.load(layout(root, [entry], [body, *bodies(made)], **{"org.opencontainers.image.ref.name": NAME}))
    record = host.store.indexer.find(NAME)
    assert record is not None
    assert record.digest == entry.digest
    return record


async def archived(host: ImageHost, name: str) -> set[str]:
    """The names in what `save` gives."""
    data = b"".join([chunk async for chunk in host.store.export([name], docker=False)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return set(archive.getnames())


async def test_an_index_keeps_the_manifests_it_names(host: ImageHost, tmp_path: Path) -> None:
    made, again = images(), images("zstd")
    await loaded(host, tmp_path / "a", made)
    assert [each.id for each in made] == [each.id for each in again]
    await host.store.load(layout(tmp_path / "b", [each.descriptor for each in again], bodies(again)))
    assert {each.manifest_digest for each in host.md.images.list()} == {each.digest for each in again}
    await collect(host.md, host.content, host.snapshots)

    wanted = {f"blobs/sha256/{Digest.of(body).hex}" for body in bodies(made)}
    assert wanted <= await archived(host, NAME)
    digest, _ = await host.store.push(NAME)
    ref = Reference.parse(NAME).without_tag()
    for each in made:
        named = ref.with_digest(Digest.parse(each.digest))
        assert await host.registry.manifest(named, each.descriptor) == each.manifest

    parts = host.store.indexer.parts(NAME)
    assert [part.entry.digest for part in parts if part.entry] == [each.digest for each in made]
    assert (await host.store.indexer.create(parts)).digest == digest


async def test_a_pull_of_the_same_index_leaves_it(host: ImageHost, tmp_path: Path) -> None:
    made = images()
    record = await loaded(host, tmp_path / "a", made)
    await push_built(host.registry, Reference.parse(NAME), made)
    await host.store.pull(NAME)
    assert host.store.indexer.find(NAME) == record
    await push_built(host.registry, Reference.parse(NAME), made[:1], index=True)
    await host.store.pull(NAME)
    assert host.store.indexer.find(NAME) is None


async def test_an_index_that_names_no_platforms(host: ImageHost, tmp_path: Path) -> None:
    made = images()
    body = encode(Index.of([each.descriptor for each in (*made, made[0])]))
    entry = Descriptor.of(body, OCI_INDEX)
    [found] = await host.store.load(layout(tmp_path / "a", [entry], [body, *bodies(made)]))
    record = host.store.indexer.find(entry.digest)
    assert record is not None
    assert record.images == tuple(each.id for each in made)
    assert found.image.id == made[0].id
    assert f"blobs/sha256/{Digest.parse(made[1].digest).hex}" in await archived(host, entry.digest)
