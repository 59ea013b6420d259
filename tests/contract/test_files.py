"""Clients' files on a host: what a store of trees does, whatever it is asked, and what a crash leaves."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted, ShoalError
from shoald.files.store import MAX_BLOB_BYTES, ContentTrees
from shoald.files.tree import MAX_ENTRIES, checked_tree
from shoald.metadata import Metadata
from shoald.model.container import Mount, MountKind
from shoald.model.file import TreeEntry
from tests.support.records import container


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
def files(md: Metadata, tmp_path: Path) -> ContentTrees:
    return ContentTrees(md, tmp_path / "files")


async def put(files: ContentTrees, data: bytes) -> str:
    await files.put(sha(data), len(data), chunks(data))
    return sha(data)


def tree(blob: str) -> list[TreeEntry]:
    return [
        TreeEntry("", directory=True, mode=0o750, modified_ns=5_000_000_000),
        TreeEntry("d", directory=True, mode=0o500, modified_ns=6_000_000_000),
        TreeEntry("d/f", blob=blob, mode=0o640, modified_ns=7_000_000_001),
        TreeEntry("out", link="/etc/passwd", mode=0o777, modified_ns=8_000_000_000),
    ]


async def test_a_tree_has_content_modes_times_and_links(files: ContentTrees) -> None:
    blob = await put(files, b"hello")
    digest = await files.assemble(tree(blob))
    root = files.path(digest)
    assert (root / "d" / "f").read_bytes() == b"hello"
    assert os.readlink(root / "out") == "/etc/passwd"
    for name, mode, time in (("", 0o750, 5_000_000_000), ("d", 0o500, 6_000_000_000), ("d/f", 0o640, 7_000_000_001)):
        found = os.lstat(root / name)
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (mode, time)
    assert stat.S_IMODE((root.parents[2]).stat().st_mode) == 0o700, "only mounts lead there"


async def test_a_tree_that_is_one_file(files: ContentTrees) -> None:
    blob = await put(files, b"one")
    digest = await files.assemble([TreeEntry("", blob=blob, mode=0o444)])
    assert files.path(digest).read_bytes() == b"one"


async def test_a_tree_is_made_once_and_needs_no_blobs_then(files: ContentTrees, md: Metadata) -> None:
    blob = await put(files, b"x")
    digest = await files.assemble(tree(blob))
    inode = files.path(digest).stat().st_ino
    md.files.blobs.delete(blob)
    assert await files.assemble(list(tree(blob))) == digest
    assert files.path(digest).stat().st_ino == inode


async def test_missing_blobs_are_named(files: ContentTrees) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await files.assemble(tree(sha(b"never sent")))
    assert caught.value.reason == "BLOB_MISSING"
    assert caught.value.metadata["digests"] == sha(b"never sent")
    here = await put(files, b"here")
    assert files.missing([here, sha(b"a"), sha(b"a")]) == [sha(b"a")]


async def test_a_blob_that_is_something_else_is_refused_and_leaves_nothing(files: ContentTrees, tmp_path: Path) -> None:
    for size, parts, error in (
        (5, (b"other",), DataLoss),
        (9, (b"hello",), DataLoss),
        (2, (b"hello",), InvalidArgument),
        (MAX_BLOB_BYTES + 1, (b"hello",), ResourceExhausted),
    ):
        with pytest.raises(error):
            await files.put(sha(b"hello"), size, chunks(*parts))
    assert not list((tmp_path / "files" / "blobs").iterdir())
    for bad in ("sha256:../../etc", "sha256:" + "A" * 64, "md5:" + "a" * 32, ""):
        with pytest.raises(InvalidArgument):
            await files.put(bad, 1, chunks(b"x"))


async def test_a_damaged_blob_is_asked_for_again(files: ContentTrees, tmp_path: Path) -> None:
    blob = await put(files, b"hello")
    (tmp_path / "files" / "blobs" / blob[7:]).write_bytes(b"hell!")
    with pytest.raises(FailedPrecondition) as caught:
        await files.assemble(tree(blob))
    assert caught.value.reason == "BLOB_MISSING"
    assert files.missing([blob]) == [blob]
    assert not list((tmp_path / "files" / "trees").iterdir())
    await put(files, b"hello")
    await files.assemble(tree(blob))


async def test_what_a_container_names_is_kept_and_the_rest_goes_in_time(files: ContentTrees, md: Metadata) -> None:
    blob = await put(files, b"x")
    used = await files.assemble(tree(blob))
    other = await files.assemble([TreeEntry("", blob=blob, mode=0o600)])
    md.containers.insert(container("web", mounts=(Mount(MountKind.CONTENT, "/c", content_digest=used),)))
    assert await files.collect() == 0, "all of it was of use a moment ago"
    assert await files.collect(kept_s=-1) == 2
    assert files.path(used).exists()
    assert files.missing([blob]) == [blob]
    with pytest.raises(FailedPrecondition) as caught:
        files.path(other)
    assert caught.value.reason == "TREE_MISSING"


async def test_the_next_daemon_removes_what_was_half_made(files: ContentTrees, md: Metadata, tmp_path: Path) -> None:
    await files.recover()
    blob = await put(files, b"x")
    digest = await files.assemble(tree(blob))
    root = tmp_path / "files"
    (root / "blobs" / ".tmp-1").write_text("half")
    (root / "blobs" / ("f" * 64)).write_text("no row")
    (root / "trees" / ".tmp-2" / "data").mkdir(parents=True)
    (root / "trees" / ("e" * 64)).mkdir()
    gone = await put(files, b"gone")
    (root / "blobs" / gone[7:]).unlink()
    later = ContentTrees(md, root)
    await later.recover()
    assert [path.name for path in (root / "trees").iterdir()] == [digest[7:]]
    assert [path.name for path in (root / "blobs").iterdir()] == [blob[7:]]
    assert later.missing([gone, blob]) == [gone]


B = sha(b"x")


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [TreeEntry("../up", blob=B)],
        [TreeEntry("/abs", blob=B)],
        [TreeEntry("a/../b", blob=B)],
        [TreeEntry("a//b", blob=B)],
        [TreeEntry("./a", blob=B)],
        [TreeEntry("a/b", blob=B)],
        [TreeEntry("a", link="/etc"), TreeEntry("a/b", blob=B)],
        [TreeEntry("a", blob=B), TreeEntry("a/b", blob=B)],
        [TreeEntry("a", directory=True), TreeEntry("a", link="/etc")],
        [TreeEntry("a/b", blob=B), TreeEntry("a", directory=True)],
        [TreeEntry("", blob=B), TreeEntry("a", blob=B)],
        [TreeEntry("", link="/etc")],
        [TreeEntry("a")],
        [TreeEntry("a", blob=B, link="b")],
        [TreeEntry("a", blob="sha256:x")],
        [TreeEntry("a", blob=B, mode=0o4755)],
        [TreeEntry("a", blob=B, modified_ns=2**63)],
        [TreeEntry("a\0b", blob=B)],
        [TreeEntry("a", link="b\0c")],
        [TreeEntry("x" * 256, blob=B)],
        [TreeEntry("\udcff", blob=B)],
        [TreeEntry(f"f{number}", blob=B) for number in range(MAX_ENTRIES + 1)],
    ],
)
async def test_trees_that_can_not_be(files: ContentTrees, entries: list[TreeEntry]) -> None:
    await put(files, b"x")
    with pytest.raises(InvalidArgument) as caught:
        await files.assemble(entries)
    assert caught.value.reason == "INVALID_TREE"


_NAMES = st.sampled_from(["", "a", "b", "a/b", "a/a", "../x", "a/../../x", "/x", "b/link/x", "."])
_ENTRIES = st.builds(
    TreeEntry,
    path=_NAMES,
    blob=st.sampled_from(["", B]),
    link=st.sampled_from(["", "..", "/", "a"]),
    directory=st.booleans(),
    mode=st.sampled_from([0o700, 0o755, 0]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_ENTRIES, max_size=6))
def test_a_tree_that_is_taken_never_leads_through_a_link_or_out(entries: list[TreeEntry]) -> None:
    try:
        digest = checked_tree(entries)
    except ShoalError:
        return
    links = {entry.path for entry in entries if entry.link}
    for entry in entries:
        parts = entry.path.split("/")
        assert ".." not in parts
        assert not entry.path.startswith("/")
        assert not any("/".join(parts[:end]) in links for end in range(1, len(parts)))
    assert checked_tree(entries) == digest


async def test_no_blob_outlives_a_boot(files: ContentTrees, md: Metadata, tmp_path: Path) -> None:
    """Their bytes may not be on the disk."""
    await files.recover()
    blob = await put(files, b"x")
    digest = await files.assemble(tree(blob))
    (tmp_path / "files/.boot").write_text("an earlier one")
    later = ContentTrees(md, tmp_path / "files")
    await later.recover()
    assert later.missing([blob]) == [blob]
    assert later.path(digest).exists()
    await put(later, b"x")
    await ContentTrees(md, tmp_path / "files").recover()
    assert later.missing([blob]) == []
