"""ADD keeps the order of its sources, archives or not, and its key says it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoald.build.parts import Archive, in_order, runs, told, with_archives
from shoald.build.selection import CopyItem
from shoald.dockerfile.errors import Span
from shoald.dockerfile.instructions import InlineFile
from shoald.dockerfile.steps import ContextBase, CopySource, CopyStep, PathSource, UrlSource


def item(name: str, *, named: bool = True) -> CopyItem:
    made = CopyItem(f"/{name}", f"/dest/{name}", "f", 0o644, 0, 0, 0, f"digest-{name}", {}, 0)
    return replace(made, named=named)


async def test_order(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as archive:
        archive.addfile(tarfile.TarInfo("member"))
    for name in ("tar", "inner"):
        (tmp_path / name).write_bytes(out.getvalue())
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    items = [item("a"), item("b"), item("tar"), item("inner", named=False), item("c")]
    parts = await with_archives(tmp_path, items, "/dest", unpack=True)
    unpacked = Archive("/tar", "/dest", "digest-tar")
    assert list(runs(parts)) == [items[:2], unpacked, items[3:]]
    assert told(parts) == ([*items[:2], *items[3:]], ["2:digest-tar"])
    assert told(parts[::-1]) != told(parts)
    assert await with_archives(tmp_path, items, "/dest", unpack=False) == items


def test_nothing_and_archives_alone() -> None:
    archive = Archive("/tar", "/dest", "d")
    assert list(runs([])) == []
    assert list(runs([archive, archive])) == [archive, archive]


LOCAL, OTHER, REMOTE = PathSource("/a"), PathSource("/b"), UrlSource("https://host/a", "a")
HERE = InlineFile("here", "text")


@pytest.mark.parametrize(
    ("sources", "files", "runs_"),
    [
        ([LOCAL, OTHER], [], [([LOCAL, OTHER], [])]),
        ([REMOTE, LOCAL], [], [([REMOTE], []), ([LOCAL], [])]),
        ([LOCAL, REMOTE, REMOTE, OTHER], [HERE], [([LOCAL], []), ([REMOTE, REMOTE], []), ([OTHER], [HERE])]),
        ([REMOTE], [HERE], [([REMOTE], []), ([], [HERE])]),
        ([], [HERE], [([], [HERE])]),
    ],
)
def test_sources_keep_their_order(sources: list[CopySource], files: list[InlineFile], runs_: list[object]) -> None:
    step = CopyStep(
        text="ADD", created_by="", span=Span(), base=ContextBase(), sources=tuple(sources), files=tuple(files),
        dest="/", dest_is_dir=True,
    )  # fmt: skip
    assert [(list(each.sources), list(each.files)) for each in in_order(step)] == runs_
