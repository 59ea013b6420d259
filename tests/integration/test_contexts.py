"""Contexts that a host keeps for builds: laid out as their manifests say, of what is there and of what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted, ShoalError
from shoal.manifest import Entry, encoded
from shoald.build import arranging
from shoald.build.contexts import Contexts, HeldContext
from shoald.files.store import ContentTrees
from shoald.metadata import Metadata
from shoald.model.buildcache import CacheKind


class Node(NamedTuple):
    """What is at a path: `data` is a file's content or a link's target; files of one `group` (not 0) are one."""

    kind: str
    data: bytes = b""
    mode: int = 0o644
    time: int = 1_000_000_000
    group: int = 0


Nodes = dict[str, Node]
IN_USE = pytest.mark.parametrize("used", [True, False], ids=["in use", "in place"])
D = Node("d", mode=0o755)


def file(data: str, mode: int = 0o644, time: int = 1_000_000_000, group: int = 0) -> Node:
    return Node("f", data.encode(), mode, time, group)


def link(target: str, time: int = 1_000_000_000) -> Node:
    return Node("l", os.fsencode(target), 0o777, time)


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(nodes: Nodes) -> bytes:
    def entry(path: str, node: Node) -> Entry:
        link, digest = os.fsdecode(node.data), sha(node.data)[7:]
        return Entry(path, node.kind, node.mode, node.time, len(node.data), digest, link, node.group)

    return encoded(entry(path, nodes[path]) for path in sorted(nodes, key=lambda path: path.split("/")))


def wanted(nodes: Nodes) -> dict[str, tuple[Any, ...]]:
    """What `walked` must find."""
    found = {}
    for path, node in nodes.items():
        names = sorted(other for other in nodes if other == path or nodes[other].group == node.group != 0)
        found[path] = (node.kind, node.mode, node.time * 10**9, node.data, names)
    return found


def walked(root: Path) -> dict[str, tuple[Any, ...]]:
    """Type, mode, time, content or target, and all names of each file below `root`."""
    stats = {str(path.relative_to(root)): path.lstat() for path in root.rglob("*")}
    found = {}
    for path, info in stats.items():
        at = root / path
        kind = "l" if at.is_symlink() else "f" if at.is_file() else "d"
        data = os.fsencode(os.readlink(at)) if kind == "l" else at.read_bytes() if kind == "f" else b""
        names = sorted(other for other in stats if stats[other].st_ino == info.st_ino)
        found[path] = (kind, info.st_mode & 0o7777, info.st_mtime_ns, data, names)
    return found


class Store:
    """The store, and what a client does with it."""

    def __init__(self, stack: contextlib.ExitStack, root: Path) -> None:
        root.mkdir()
        self.files = ContentTrees(stack.enter_context(Metadata.open(root / "meta.db")), root / "files")
        self.root = root / "contexts"
        self.blobs = root / "files" / "blobs"
        self.contexts = Contexts(self.root, self.files)

    async def put(self, *contents: bytes) -> None:
        await self.files.put_all([(sha(data), data) for data in contents])

    async def send(self, nodes: Nodes) -> list[str]:
        """Send what is missing, the manifest only when it is asked for; the contents."""
        data = manifest_of(nodes)
        try:
            missing = await self.contexts.missing(sha(data))
        except ShoalError as error:
            if error.reason != "CONTEXT_MISSING":
                raise
            await self.put(data)
            missing = await self.contexts.missing(sha(data))
        contents = {sha(node.data): node.data for node in nodes.values() if node.kind == "f"}
        await self.put(*(contents[digest] for digest in missing))
        return sorted(contents[digest].decode() for digest in missing)

    @contextlib.asynccontextmanager
    async def using(self, nodes: Nodes) -> AsyncIterator[HeldContext]:
        """The context, which is what it should be as long as it is used."""
        async with self.contexts.taken(sha(manifest_of(nodes))) as held:
            assert walked(held.root) == wanted(nodes)
            self.nothing_half_made()
            yield held
            assert walked(held.root) == wanted(nodes)

    async def make(self, nodes: Nodes) -> list[str]:
        """Send it and make it; what was sent."""
        sent = await self.send(nodes)
        async with self.using(nodes):
            return sent

    async def refused(self, nodes: Nodes) -> str:
        """Why it can't be used."""
        with pytest.raises(ShoalError) as caught:
            await self.contexts.taken(sha(manifest_of(nodes))).__aenter__()
        self.nothing_half_made()
        return caught.value.reason

    def names(self) -> set[str]:
        return {name for name in os.listdir(self.root) if name != ".boot"}

    def place(self, nodes: Nodes) -> Path:
        return self.root / sha(manifest_of(nodes))[7:]

    def nothing_half_made(self) -> None:
        for name in self.names():
            assert (name[0] != ".", set(os.listdir(self.root / name))) == (True, {"entries", "files"})
        assert not list(self.blobs.glob(".*"))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Iterator[Store]]:
    with contextlib.ExitStack() as stack:
        yield (Store(stack, tmp_path / str(number)) for number in range(100))


@pytest.fixture
def store(stores: Iterator[Store]) -> Store:
    return next(stores)


TREE: Nodes = {
    "dir": Node("d", mode=0o750, time=5),
    "dir/empty": Node("d", mode=0o2700, time=6),
    "dir/run": file("#!/bin/sh", 0o4755, -7),
    "dir/a b\n#\\": file("odd", 0o600, 8),
    "dir/up": link("../../..", 10),
    "dir/two": file("linked", 0o640, 11, 1),
    "link": link("/etc/passwd", 9),
    "nothing": file("", 0o444, 13),
    "one": file("linked", 0o640, 11, 1),
    "same": file("linked", 0o644, 12),
    "\udcff": D,
    "\udcff/\udce9 x": file("latin"),
}
CONTENTS = sorted({node.data.decode() for node in TREE.values() if node.kind == "f"})


async def test_a_fresh_context_is_as_its_manifest_says(store: Store) -> None:
    assert await store.make(TREE) == CONTENTS, "each content once"
    assert await store.make(TREE) == []
    async with store.using(TREE) as held:
        by_path = (await held.tree()).by_path
    assert set(by_path) == {"/", *("/" + path for path in TREE)}
    assert (by_path["/dir/run"].content, by_path["/one"].inode) == (sha(b"#!/bin/sh")[7:], 1)
    assert (store.root.stat().st_mode & 0o777, await store.make({})) == (0o700, [])


async def test_missing_names_exactly_what_lacks(store: Store) -> None:
    nodes = {"a": file("a"), "b": file("b"), "c": file("b"), "d": D}
    data = manifest_of(nodes)
    with pytest.raises(FailedPrecondition, match="does not have"):
        await store.contexts.missing(sha(data))
    assert await store.refused(nodes) == "CONTEXT_MISSING"
    await store.put(data)
    assert await store.contexts.missing(sha(data)) == [sha(b"a"), sha(b"b")]
    await store.put(b"b", b"else", b"a")
    assert await store.contexts.missing(sha(data)) == []
    store.files.forget(sha(b"a"))
    assert await store.refused(nodes) == "CONTEXT_MISSING"
    assert await store.make(nodes) == ["a"]
    assert os.listdir(store.blobs) == [sha(b"else")[7:]], "what was used is no blob any more"


async def test_the_blob_of_a_file_with_several_names_is_used_up(store: Store) -> None:
    await store.make({name: file("linked", group=1) for name in "abc"})
    assert os.listdir(store.blobs) == []


async def test_a_blob_whose_file_went(store: Store) -> None:
    """As when another context takes it: it is asked for, and so is what the attempt took along."""
    nodes = {"a": file("a"), "b": file("b")}
    await store.send(nodes)
    (store.blobs / sha(b"b")[7:]).unlink()
    assert await store.refused(nodes) == "CONTEXT_MISSING"
    await store.make(nodes)


async def test_bad_digests_and_manifests(store: Store) -> None:
    await store.put(b"no manifest")
    for digest in ("", "x", "sha256:" + "g" * 64, "sha256:../" + "a" * 61, sha(b"no manifest")):
        with pytest.raises(InvalidArgument):
            await store.contexts.missing(digest)
        with pytest.raises(InvalidArgument) as caught:
            await store.contexts.taken(digest).__aenter__()
    assert (caught.value.reason, store.names()) == ("INVALID_MANIFEST", set())


async def test_a_damaged_manifest_is_asked_for_again(store: Store) -> None:
    """A client sends the manifest when CONTEXT_MISSING says so, and at no other time."""
    await store.send(TREE)
    (store.blobs / sha(manifest_of(TREE))[7:]).write_bytes(manifest_of(TREE).replace(b"0750", b"0777"))
    assert await store.refused(TREE) in ("DIGEST_MISMATCH", "CONTEXT_MISSING")
    await store.make(TREE)


async def test_what_a_crash_of_the_host_left_of_a_blob_is_not_used(store: Store) -> None:
    """Blobs are not synced: after a crash the row may be there, and the file empty."""
    nodes = {"a": file("a" * 100)}
    await store.send(nodes)
    os.truncate(store.blobs / sha(b"a" * 100)[7:], 0)
    (store.root / ".boot").write_text("another boot")
    await store.files.recover()
    store.contexts.sweep()
    for attempt in (contextlib.suppress(ShoalError), contextlib.nullcontext()):
        with attempt:
            await store.make(nodes)


async def test_a_batch_keeps_what_came_before_a_bad_one(store: Store) -> None:
    with pytest.raises(DataLoss):
        await store.files.put_all([(sha(b"good"), b"good"), (sha(b"bad"), b"worse"), (sha(b"after"), b"after")])
    assert store.files.missing(map(sha, (b"good", b"bad", b"after"))) == [sha(b"bad"), sha(b"after")]
    assert os.listdir(store.blobs) == [sha(b"good")[7:]]


MORE = {**{f"more{n}": file(f"more {n}") for n in range(8)}, "dir": D, "dir/f": file("in dir"), "x": file("x")}
EMPTIED = {path: node for path, node in MORE.items() if not path.startswith("dir")}
CHANGES: dict[str, tuple[Nodes, list[str]]] = {
    "content": ({**MORE, "x": file("y")}, ["y"]),
    "mode": ({**MORE, "x": file("x", 0o4711)}, []),
    "time": ({**MORE, "x": file("x", time=7)}, []),
    "mode and time of a directory": ({**MORE, "dir": Node("d", mode=0o700, time=3)}, []),
    "removed": (EMPTIED, []),
    "renamed": ({**EMPTIED, "other": D, "other/g": MORE["dir/f"]}, []),
    "copied": ({**MORE, "x2": MORE["x"], "x3": file("x", 0o600, 5)}, []),
    "swapped": ({**MORE, "x": MORE["more1"], "more1": MORE["x"]}, []),
    "two of one blob": ({**MORE, "n1": file("new"), "n2": file("new", 0o600)}, ["new"]),
    "linked": ({**MORE, "x": file("x", group=4), "x2": file("x", group=4)}, []),
    "linked anew": ({**MORE, "n1": file("new", group=4), "n2": file("new", group=4)}, ["new"]),
    "directory by file": ({**EMPTIED, "dir": file("x")}, []),
    "directory by link": ({**EMPTIED, "dir": link("more1")}, []),
    "file by link": ({**MORE, "x": link("dir/f")}, []),
    "file by directory": ({**MORE, "x": D, "x/x": file("x"), "x/y": D}, []),
    "link to a directory": ({**EMPTIED, "dir": link("/tmp"), "dir2": D, "dir2/f": file("in dir")}, []),
    "not UTF-8": ({**MORE, "\udcff": file("x"), "m\udc80": D}, []),
}


@pytest.mark.parametrize("there", [True, False], ids=["and back", "at once"])
@IN_USE
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change(store: Store, change: str, used: bool, there: bool) -> None:
    before, (after, sent) = MORE, CHANGES[change]
    for nodes in (after, before) if there else (before,):
        await store.make(nodes)
    root = store.place(before) / "files"
    inodes = {path: (root / path).stat().st_ino for path in MORE if path.startswith("more")}
    async with contextlib.AsyncExitStack() as stack:
        if used:
            await stack.enter_async_context(store.using(before))
        assert set(await store.make(after)) <= set(sent) if there else await store.make(after) == sent
        for path in (path for path in inodes if after[path] == before[path]):
            assert (store.place(after) / "files" / path).stat().st_ino == inodes[path]
        assert store.names() == {store.place(after).name} | ({store.place(before).name} if used else set())


def random_nodes(dice: random.Random, old: Nodes) -> Nodes:
    """Much of another tree, and some that is new."""
    nodes: Nodes = {}
    directories = [""]
    linked = [file(str(number), 0o600, number, number) for number in (1, 2)]
    for path in [*(path for path in old if dice.random() < 0.8), *dice.choices("abcdef", k=12)]:
        if path not in old:
            path = f"{dice.choice(directories)}/{path}".lstrip("/")
        if path in nodes or path.rpartition("/")[0] not in directories:
            continue
        mode, time, content = dice.choice((0o755, 0o700)), dice.choice((1, 2)), dice.choice("vwxyz")
        fresh = (Node("d", b"", mode, time), file(content, mode, time), link(content, time), dice.choice(linked))
        nodes[path] = old[path] if path in old and dice.random() < 0.7 else dice.choice(fresh)
        if nodes[path].kind == "d":
            directories.append(path)
    return nodes


@IN_USE
@pytest.mark.parametrize("seed", range(8))
async def test_random_trees_one_over_the_other(store: Store, seed: int, used: bool) -> None:
    dice, nodes = random.Random(seed), random_nodes(random.Random(seed), {})
    await store.make(nodes)
    for _ in range(12):
        other = random_nodes(dice, nodes)
        async with contextlib.AsyncExitStack() as stack:
            if used:
                await store.send(nodes)
                await stack.enter_async_context(store.using(nodes))
            await store.make(other)
        nodes = other


@IN_USE
@pytest.mark.parametrize("call", ["rename", "link", "symlink", "mkdir", "chmod", "utime", "copy_content"])
async def test_a_failure_in_the_middle_leaves_nothing_half_made(
    stores: Iterator[Store], monkeypatch: pytest.MonkeyPatch, call: str, used: bool
) -> None:
    after = {**MORE, "x": file("y", group=1), "x2": file("y", group=1), "n": file("new"), "m": MORE["dir/f"]}
    after |= {"l": link("x"), "d": D, "d/more1": file("more 1", 0o600), "z": file("z")}
    owner: Any = arranging if call == "copy_content" else os
    really, number, left = getattr(owner, call), 0, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "no space left")
        return really(*args, **kwargs)

    while left <= 0:
        number, store = number + 1, next(stores)
        left = number
        await store.make(MORE)
        await store.send(after)
        async with contextlib.AsyncExitStack() as stack:
            if used:
                await stack.enter_async_context(store.using(MORE))
            with monkeypatch.context() as patched, contextlib.suppress(ResourceExhausted):
                patched.setattr(owner, call, failing)
                async with store.contexts.taken(sha(manifest_of(after))):
                    pass
            store.nothing_half_made()
            await store.make(after)
    assert number > 1


async def test_concurrent_builds_make_a_context_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made, really = itertools.count(), arranging.Arranging.arrange
    monkeypatch.setattr(arranging.Arranging, "arrange", lambda *a, **k: next(made) < 9 and really(*a, **k))
    await store.send(TREE)

    held = await asyncio.gather(*(store.contexts.taken(sha(manifest_of(TREE))).__aenter__() for _ in range(8)))
    assert (next(made), len({each.root for each in held})) == (1, 1)
    assert walked(held[0].root) == wanted(TREE)


async def test_what_is_in_use_stays(store: Store) -> None:
    assert (await store.make(TREE), len(await store.make(MORE))) == (CONTENTS, 10)
    async with store.using(TREE):
        assert await store.contexts.remove(store.place(TREE).name) is False
        assert await store.contexts.collect(timedelta(0)) == 1
        assert store.names() == {store.place(TREE).name}
        (record,) = store.contexts.records()
        assert (record.id, record.kind, record.in_use) == (store.place(TREE).name, CacheKind.CONTEXT, True)
        assert record.last_used_at >= record.created_at
    assert [record.in_use for record in store.contexts.records()] == [False]
    assert await store.contexts.collect(timedelta(days=1)) == 0
    os.utime(store.place(TREE), (0, 0))
    assert await store.contexts.collect() == 1
    for name in (store.place(TREE).name, "../files", ".boot"):
        assert await store.contexts.remove(name) is False
    assert (store.contexts.records(), store.names()) == ([], set())


@pytest.mark.parametrize("boot", ["", "another boot"])
async def test_sweeping(store: Store, boot: str) -> None:
    store.contexts.sweep()
    await store.make(TREE)
    (store.root / ".new-1/files/dir").mkdir(parents=True)
    if boot:
        (store.root / ".boot").write_text(boot)
    for _ in range(2):
        store.contexts.sweep()
        store.nothing_half_made()
        assert store.names() == (set() if boot else {store.place(TREE).name})
    assert bool(await store.make(TREE)) == bool(boot)
