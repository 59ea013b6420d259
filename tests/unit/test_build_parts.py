"""ADD keeps the order of its sources, archives or not, and its key says it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from msgspec.structs import replace

from shoald.build.parts import Archive, runs, told, with_archives
from shoald.build.selection import CopyItem


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
