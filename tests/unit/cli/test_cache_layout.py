"""Directories with caches of builds: what is found in them, whatever they hold, and what writing leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoalctl.fleet.cache_layout import OCI_MANIFEST, REF_NAME, CacheLayout, Part
from shoalctl.fleet.cache_writing import CacheWriter


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def part(data: bytes, kind: str = "x/y") -> Part:
    return Part(kind, digest_of(data), len(data))


def described(each: Part, name: str | None = None) -> dict[str, Any]:
    annotations = {} if name is None else {"annotations": {REF_NAME: name}}
    return {"mediaType": each.media_type, "digest": each.digest, "size": each.size, **annotations}


def manifest(*layers: bytes) -> bytes:
    return json.dumps({"config": described(part(b"{}")), "layers": [described(part(each)) for each in layers]}).encode()


def write(root: Path, tag: str, *layers: bytes) -> Part:
    """As a client does it, all at once."""
    writer = CacheWriter(root)
    writer.prepare()
    body = manifest(*layers)
    own = part(body, OCI_MANIFEST)
    for each, data in ((part(data), data) for data in (b"{}", *layers, body)):
        if not writer.holds(each):
            with closing(writer.incoming(each)) as incoming:
                incoming.write(data)
                assert incoming.complete()
    writer.publish(own, tag, [part(b"{}"), *map(part, layers), own])
    return own


def blobs(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in (root / "blobs" / "sha256").iterdir()}


def index(root: Path, *entries: Any) -> CacheLayout:
    root.mkdir(exist_ok=True)
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return CacheLayout(root)


def test_writing_keeps_other_tags_and_what_they_need(tmp_path: Path) -> None:
    first = write(tmp_path, "one", b"a", b"b")
    second = write(tmp_path, "two", b"b", b"c")
    layout = CacheLayout(tmp_path)
    assert (layout.find("one"), layout.find("two")) == (first, second)
    assert blobs(tmp_path) == {b"{}", b"a", b"b", b"c", manifest(b"a", b"b"), manifest(b"b", b"c")}
    write(tmp_path, "one", b"d")
    assert blobs(tmp_path) == {b"{}", b"b", b"c", b"d", manifest(b"d"), manifest(b"b", b"c")}
    assert not (tmp_path / ".shoal-ingest").exists()
    assert [entry["annotations"][REF_NAME] for entry in layout.entries()] == ["two", "one"]


def test_nothing_goes_where_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "one", b"a")
    other = write(tmp_path, "two", b"b")
    CacheLayout(tmp_path).place(other.digest).write_text("no JSON")
    write(tmp_path, "one", b"c")
    assert {b"a", b"b", b"c"} <= blobs(tmp_path)


def test_a_manifest_that_names_itself_has_an_end(tmp_path: Path) -> None:
    write(tmp_path, "one", b"a")
    own = Part(OCI_MANIFEST, "sha256:" + "1" * 64, 1)
    CacheLayout(tmp_path).place(own.digest).write_text(json.dumps({"manifests": [described(own)]}))
    assert CacheLayout(tmp_path).reached([own.digest]) == {own.digest}


def test_what_came_before_counts_if_it_is_right(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path)
    writer.prepare()
    with closing(writer.incoming(part(b"hello"))) as incoming:
        incoming.write(b"hel")
    with closing(writer.incoming(part(b"hello"))) as incoming:
        assert incoming.offset == 3
        incoming.write(b"lo")
        assert incoming.complete()
    with closing(writer.incoming(part(b"world"))) as incoming:
        incoming.write(b"wor__")
        assert not incoming.complete()
        assert incoming.offset == 0
        incoming.write(b"world")
        assert incoming.complete()


def test_a_blob_that_is_not_what_its_name_says_is_not_held(tmp_path: Path) -> None:
    write(tmp_path, "one", b"hello")
    writer = CacheWriter(tmp_path)
    assert writer.holds(part(b"hello"))
    for harm in (b"hallo", b"hell", b"helloo"):
        writer.layout.place(digest_of(b"hello")).write_bytes(harm)
        assert not writer.holds(part(b"hello"))
    assert not writer.holds(part(b"other"))


def test_what_is_found(tmp_path: Path) -> None:
    a, b = part(b"a", OCI_MANIFEST), part(b"b", OCI_MANIFEST)
    layout = index(tmp_path, described(a, "latest"), described(b, "example.com/app:two"))
    assert layout.find() == layout.find("latest") == a
    assert layout.find("two") == b
    assert layout.find("", b.digest) == b
    assert index(tmp_path, described(b, "named")).find() == b, "the only one"
    assert index(tmp_path, described(b)).find() == b
    with pytest.raises(NotFound):
        index(tmp_path, described(b)).find("latest")
    with pytest.raises(NotFound):
        index(tmp_path, described(a, "x"), described(b, "y")).find()
    with pytest.raises(NotFound):
        layout.find("", "sha256:" + "0" * 64)
    for strange in ({}, {"digest": 1}, {"digest": "sha256:../..", "size": 1}, {**described(a), "size": -1}):
        with pytest.raises(NotFound):
            index(tmp_path, strange).find()


def test_links_and_others_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    own = write(root, "latest", b"a")
    elsewhere = tmp_path / "elsewhere"
    for name in ("index.json", "blobs/sha256", "blobs"):
        (root / name).rename(elsewhere)
        (root / name).symlink_to(elsewhere)
        with pytest.raises(InvalidArgument):
            CacheLayout(root).document(CacheLayout(root).find().digest)
        with pytest.raises(InvalidArgument):
            CacheWriter(root).prepare()
        (root / name).unlink()
        elsewhere.rename(root / name)
    assert CacheLayout(root).find() == own
    place = CacheLayout(root).place(digest_of(b"a"))
    place.unlink()
    place.mkdir()
    with pytest.raises(ShoalError):
        CacheLayout(root).open(digest_of(b"a"))


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_nothing_is_written_through_what_lies_in_the_way(tmp_path: Path, kind: str) -> None:
    root, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_text("secret")
    writer = CacheWriter(root)
    writer.prepare()
    ingest = root / ".shoal-ingest"
    ingest.mkdir()
    at = ingest / digest_of(b"hello").removeprefix("sha256:")
    if kind == "link":
        at.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(at)
    else:
        at.mkdir()
    with pytest.raises(ShoalError):
        writer.incoming(part(b"hello"))
    assert secret.read_text() == "secret"
    ingest.rename(tmp_path / "elsewhere")
    ingest.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument):
        writer.incoming(part(b"other"))


async def test_one_writes_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    entered, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with CacheWriter(tmp_path).alone():
            entered.set()
            await leave.wait()
            order.append("first")

    async def second() -> None:
        await entered.wait()
        waiting = asyncio.create_task(third())
        await asyncio.sleep(0)
        leave.set()
        await waiting

    async def third() -> None:
        async with CacheWriter(tmp_path).alone():
            order.append("third")

    await asyncio.gather(first(), second())
    assert order == ["first", "third"]
