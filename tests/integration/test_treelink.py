"""Files of a new layer as second names of files in other layers: on real overlay mounts, never where it would show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoald.build import trees
from shoald.build.selection import CopyItem, linkable
from shoald.host import mounts
from tests.integration.test_treecopy import item

pytestmark = pytest.mark.root
TIME = 10**18


class Layers:
    """Directories of layers, and overlay mounts of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.upper = self.made("upper")
        self.work = self.made("work")
        self.base = self.made("base")
        self.below = [self.base]

    def made(self, name: str) -> Path:
        (self.root / name).mkdir()
        return self.root / name

    async def copied(self, sources: Sequence[Path], items: list[CopyItem], owner: tuple[int, int] | None = None) -> int:
        """Copy the items from the overlay of `sources` (topmost first) into the new layer over the base; how many could
        not be linked."""
        merged = self.mounted("source", sources)
        try:
            target = self.mounted("target", [self.base], upper=True)
            try:
                numbers = {number for number, each in enumerate(items) if each.kind == "f"}
                links = await trees.copy(merged, target, items, owner, numbers)
            finally:
                mounts.unmount_tree(target, detach=True)
            left = await trees.link(self.upper, sources, self.below, links)
            if left:
                target = self.mounted("target", [self.base], upper=True)
                try:
                    await trees.copy(merged, target, left, owner, keep_times=True)
                finally:
                    mounts.unmount_tree(target, detach=True)
            return len(left)
        finally:
            mounts.unmount_tree(merged, detach=True)

    def mounted(self, name: str, lower: Sequence[Path], *, upper: bool = False) -> Path:
        point = self.root / f"m-{name}"
        point.mkdir(exist_ok=True)
        data = "lowerdir=" + ":".join(map(str, [*lower, *([] if upper or len(lower) > 1 else [self.work])]))
        if upper:
            data += f",upperdir={self.upper},workdir={self.work}"
        mounts.mount("overlay", point, "overlay", data=data)
        return point


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def file(directory: Path, name: str, text: str = "text", mode: int = 0o644) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.utime(path, ns=(TIME, TIME))
    return path


def wanted(name: str, target: str = "") -> CopyItem:
    return item(target or f"/to{name}", data=None, source=name)


def same(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


async def test_new_files_are_shared(layers: Layers) -> None:
    top, bottom = layers.made("top"), layers.made("bottom")
    high, low = file(top, "a"), file(bottom, "d/b")
    file(bottom, "a", "hidden by the layer above")
    assert await layers.copied([top, bottom], [wanted("/a"), wanted("/d/b")]) == 0
    assert same(high, layers.upper / "to/a")
    assert same(low, layers.upper / "to/d/b")


@pytest.mark.parametrize(
    "change", [{"mode": 0o600}, {"mtime_ns": TIME + 1}, {"uid": 7}, {"gid": 7}], ids=lambda each: next(iter(each))
)
async def test_what_is_to_look_different_is_copied(layers: Layers, change: dict[str, int]) -> None:
    top = layers.made("top")
    origin = file(top, "a")
    assert await layers.copied([top], [replace(wanted("/a"), **change)]) == 1
    made = (layers.upper / "to/a").stat()
    assert not same(origin, layers.upper / "to/a")
    assert (made.st_mode & 0o777, made.st_mtime_ns, made.st_uid, made.st_gid) == (
        change.get("mode", 0o644),
        change.get("mtime_ns", TIME),
        change.get("uid", 0),
        change.get("gid", 0),
    )
    assert (origin.stat().st_mode & 0o777, origin.stat().st_uid, origin.stat().st_mtime_ns) == (0o644, 0, TIME)


async def test_an_owner_of_all(layers: Layers) -> None:
    top = layers.made("top")
    origin = file(top, "a")
    assert await layers.copied([top], [wanted("/a")], (5, 6)) == 1
    assert ((layers.upper / "to/a").stat().st_uid, origin.stat().st_uid) == (5, 0)


async def test_only_what_the_overlay_shows(layers: Layers) -> None:
    """A whiteout, an opaque directory or a file in the place of a directory hides what lies below."""
    top, bottom = layers.made("top"), layers.made("bottom")
    for name in ("white/a", "opaque/a", "opaque/d/b", "turned/d/a"):
        file(bottom, name)
    (top / "white").mkdir()
    os.mknod(top / "white/a", 0o020000, 0)
    (top / "opaque").mkdir()
    os.setxattr(top / "opaque", "trusted.overlay.opaque", b"y")
    file(top, "turned", "a file now")
    links = [
        trees.Link(wanted(f"/{name}"), None, "/", str(number))
        for number, name in enumerate(("white/a", "opaque/a", "opaque/d/b", "turned/d/a"))
    ]
    assert len(await trees.link(layers.upper, [top, bottom], [], links)) == 4
    assert os.listdir(layers.upper) == []


async def test_nothing_is_followed(layers: Layers, tmp_path: Path) -> None:
    top, outside = layers.made("top"), layers.made("outside")
    file(outside, "secret")
    (top / "link").symlink_to(outside)
    (top / "direct").symlink_to(outside / "secret")
    (layers.upper / "out").symlink_to(outside)
    links = [
        trees.Link(wanted("/link/secret"), None, "/", "a"),
        trees.Link(wanted("/direct"), None, "/", "b"),
        trees.Link(wanted("/../outside/secret"), None, "/", "c"),
        trees.Link(wanted("/plain"), None, "/out", "d"),
        trees.Link(wanted("/plain"), None, "/../outside", "e"),
    ]
    file(top, "plain")
    assert len(await trees.link(layers.upper, [top], [], links)) == 5
    assert os.listdir(outside) == ["secret"]
    assert os.listdir(layers.upper) == ["out"]


async def test_two_names_of_one_file_are_two_files(layers: Layers) -> None:
    """Not hard links of each other, which a tool that changes one would find out."""
    top = layers.made("top")
    file(top, "a")
    assert await layers.copied([top], [wanted("/a", "/x"), wanted("/a", "/y")]) == 1
    assert not same(layers.upper / "x", layers.upper / "y")


async def test_the_last_of_two_for_one_place_wins(layers: Layers) -> None:
    top = layers.made("top")
    file(top, "a", "first")
    file(top, "b", "second")
    (layers.base / "real").mkdir()
    (layers.base / "alias").symlink_to("real")
    for targets in (("/to/x", "/to/x"), ("/real/x", "/alias/x")):
        await layers.copied([top], [wanted("/a", targets[0]), wanted("/b", targets[1])])
        assert (layers.upper / targets[0].lstrip("/")).read_text() == "second"


async def test_a_file_that_is_there_is_replaced(layers: Layers) -> None:
    top = layers.made("top")
    file(top, "a", "new")
    old = file(layers.base, "to/a", "old")
    assert await layers.copied([top], [wanted("/a")]) == 0
    assert ((layers.upper / "to/a").read_text(), old.read_text()) == ("new", "old")


async def test_directories_keep_their_times_and_modes(layers: Layers) -> None:
    top = layers.made("top")
    file(top, "d/a")
    file(top, "e/b")
    (layers.base / "e").mkdir(mode=0o750)
    directory = replace(item("/d", "d"), mode=0o1751, mtime_ns=TIME)
    assert await layers.copied([top], [directory, wanted("/d/a", "/d/a"), wanted("/e/b", "/e/b")]) == 0
    made = (layers.upper / "d").stat()
    assert (made.st_mode & 0o7777, made.st_mtime_ns) == (0o1751, TIME)
    assert (layers.upper / "e").stat().st_mode & 0o7777 == 0o750


async def test_a_file_that_overlayfs_has_marked_is_copied(layers: Layers) -> None:
    top = layers.made("top")
    os.setxattr(file(top, "a"), "trusted.overlay.origin", b"x")
    assert await layers.copied([top], [wanted("/a")]) == 1
    assert "trusted.overlay.origin" not in os.listxattr(layers.upper / "to/a")


async def test_no_file_has_two_names_in_one_image(layers: Layers) -> None:
    """A program compares device and inode: `cp a b` would refuse. The names may be in different layers."""
    top, other = layers.made("top"), layers.made("other")
    origin = file(top, "a")
    os.link(origin, layers.base / "was-linked")
    os.link(file(layers.base, "own"), other / "own")
    assert await layers.copied([other, top], [wanted("/a"), wanted("/own")]) == 2
    assert not same(origin, layers.upper / "to/a")
    assert not same(layers.base / "own", layers.upper / "to/own")
    layers.below = [top, layers.base]
    assert len(await trees.link(layers.upper, [top], [top], [trees.Link(wanted("/a"), None, "/", "b")])) == 1


async def test_of_very_many_layers(layers: Layers) -> None:
    """More directories are looked into than are kept open: the place of the new name must not be lost among them."""
    many = []
    for number in range(120):
        many.append(layers.made(f"l{number}"))
        (many[-1] / "usr/lib/deep").mkdir(parents=True)
    origin = file(many[-1], "usr/lib/deep/file")
    layers.upper.joinpath("app").mkdir()
    links = [trees.Link(wanted("/usr/lib/deep/file"), None, "/app", "renamed")]
    assert await trees.link(layers.upper, many, [], links) == []
    assert same(origin, layers.upper / "app/renamed")
    found = [path for layer in many for path in layer.rglob("*") if path.is_file()]
    assert found == [origin]


async def test_directories_keep_their_times_when_files_are_copied_after_all(layers: Layers) -> None:
    top = layers.made("top")
    file(top, "d/a")
    directory = replace(item("/d", "d"), mtime_ns=TIME)
    assert await layers.copied([top], [directory, replace(wanted("/d/a", "/d/a"), uid=7)]) == 1
    assert (layers.upper / "d").stat().st_mtime_ns == TIME
    assert (layers.upper / "d/a").stat().st_uid == 7


def test_what_is_worth_it() -> None:
    many = [wanted(f"/{number}") for number in range(100)]
    assert linkable(many) == set(range(100))
    assert linkable(many[1:]) == set()
    others = [
        replace(wanted("/s"), mode=0o4755),
        wanted("/c", "/etc/cron.d/c"),
        replace(wanted("/h"), inode=5),
        item("/data"),
        item("/link", "l", "x"),
        many[0],
    ]
    assert linkable([*many, *others]) == set(), "one has no place of its own"
    assert linkable([*many, wanted("/100"), *others]) == set(range(1, 101))
