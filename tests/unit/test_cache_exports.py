"""Caches that builds make for their clients: kept for a while, given in parts, and gone after it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal.digest import Digest
from shoal.errors import NotFound, OutOfRange, ResourceExhausted
from shoald.build import cacheexports
from shoald.build.cacheexports import CacheExports
from shoald.build.packing import Packing
from shoald.build.solver import Build, StepLayer
from shoald.images.layers import LayerBlob
from shoald.metadata import HoldKind, Metadata
from shoald.model.build import BuildWarning, CacheExport, CacheReady
from tests.support.memory_content import MemoryContent

RESULT, OTHER = StepLayer("sha256:key", "result"), StepLayer("sha256:other", "other")


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@dataclass
class Packer:
    """Packs a layer as the name of its snapshot."""

    md: Metadata
    content: MemoryContent
    error: Exception | None = None

    async def blob(self, layer: StepLayer, lease: str) -> LayerBlob:
        if self.error is not None:
            raise self.error
        digest = str(await self.content.put(layer.snapshot_id.encode()))
        self.md.leases.hold(lease, HoldKind.BLOB, digest)
        return LayerBlob("sha256:" + "d" * 64, digest, len(layer.snapshot_id), "x/y+gzip", 1)


@dataclass
class Rig:
    md: Metadata
    packer: Packer
    exports: CacheExports
    events: list[object] = field(default_factory=list)

    async def make(self, request_id: str, *wanted: CacheExport) -> list[Any]:
        """The events that it gave."""
        self.events.clear()
        request = SimpleNamespace(cache_exports=wanted)
        build = SimpleNamespace(request=request, made={"a": RESULT, "b": OTHER}, emit=self.events.append)
        await self.exports.make(request_id, [cast("Build", build)], [[RESULT]])
        return list(self.events)

    async def read(self, request_id: str, digest: str, offset: int = 0) -> bytes:
        return b"".join([chunk async for chunk in self.exports.read(request_id, digest, offset)])

    @property
    def held(self) -> set[str]:
        return self.md.leases.held(HoldKind.BLOB)


@pytest.fixture
async def rig(md: Metadata, tmp_path: Path) -> AsyncIterator[Rig]:
    content = MemoryContent(tmp_path)
    packer = Packer(md, content)
    made = Rig(md, packer, CacheExports(md, content, cast("Packing", packer)))
    yield made
    made.exports.close()
    assert made.held == set()


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize("all_steps", [False, True])
async def test_all_parts_are_given(rig: Rig, all_steps: bool) -> None:
    (ready,) = await rig.make("b", CacheExport(all_steps))
    assert isinstance(ready, CacheReady)
    assert ready.all_steps is all_steps
    manifest = await rig.read("b", ready.digest)
    assert (len(manifest), str(Digest.of(manifest))) == (ready.size, ready.digest)
    document = json.loads(manifest)
    wanted = {digest_of("result"), digest_of("other")} if all_steps else {digest_of("result")}
    assert {each["digest"] for each in document["layers"]} == wanted
    parts = [ready.digest, document["config"]["digest"], *wanted]
    assert rig.held == set(parts)
    for part in parts:
        whole = await rig.read("b", part)
        assert str(Digest.of(whole)) == part
        assert await rig.read("b", part, 3) == whole[3:]
        assert await rig.read("b", part, len(whole)) == b""
        with pytest.raises(OutOfRange):
            await rig.read("b", part, len(whole) + 1)


async def test_nothing_else_is_given(rig: Rig) -> None:
    await rig.make("b", CacheExport())
    strange = str(await rig.packer.content.put(b"strange"))
    with pytest.raises(NotFound) as caught:
        await rig.read("b", strange)
    assert caught.value.reason == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound) as caught:
        await rig.read("other", strange)
    assert caught.value.reason == "CACHE_NOT_FOUND"
    assert await rig.make("none") == []
    with pytest.raises(NotFound):
        await rig.read("none", strange)


async def test_both_kinds(rig: Rig) -> None:
    first, second = await rig.make("b", CacheExport(), CacheExport(all_steps=True))
    assert first.digest != second.digest
    for ready in (first, second):
        assert len(await rig.read("b", ready.digest)) == ready.size


async def test_one_that_cannot_be_made(rig: Rig) -> None:
    rig.packer.error = ResourceExhausted("the disk is full", reason="DISK_FULL")
    (warning,) = await rig.make("b", CacheExport(ignore_errors=True))
    assert isinstance(warning, BuildWarning)
    assert "the disk is full" in warning.message
    with pytest.raises(ResourceExhausted, match="the image was built, but not its cache"):
        await rig.make("b", CacheExport())


async def test_it_is_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cacheexports, "KEPT_S", 0.02)
    (ready,) = await rig.make("b", CacheExport())
    async with asyncio.timeout(10):
        while rig.held:
            await asyncio.sleep(0.01)
    with pytest.raises(NotFound) as caught:
        await rig.read("b", ready.digest)
    assert caught.value.reason == "CACHE_NOT_FOUND"


async def test_what_is_being_read_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (ready,) = await rig.make("b", CacheExport())
    reading = rig.exports.read("b", ready.digest, 0)
    assert await anext(reading)
    rig.exports.close()
    assert rig.held == {ready.digest}
    assert [chunk async for chunk in reading] == []
    assert rig.held == set()
