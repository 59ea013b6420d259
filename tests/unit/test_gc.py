"""Marking, by properties; and collecting, beside work in progress."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.digest import Digest
from shoald.content.local import LocalContent
from shoald.gc import Collected, collect, mark
from shoald.gc.mark import children_first
from shoald.metadata import HoldKind, Metadata
from shoald.model.container import ContainerState
from shoald.model.snapshot import Snapshot
from tests.support.memory_content import MemoryContent
from tests.support.plain_snapshots import PlainSnapshotter
from tests.support.records import container, image

GRAPHS = st.dictionaries(st.integers(0, 15), st.lists(st.integers(0, 15), max_size=4), max_size=16)
ROOTS = st.lists(st.integers(0, 15), max_size=4)


@given(GRAPHS, ROOTS)
def test_mark_is_the_least_set_that_is_closed(graph: dict[int, list[int]], roots: list[int]) -> None:
    reached = mark(roots, lambda node: graph.get(node, []))
    assert set(roots) <= reached
    assert all(target in reached for node in reached for target in graph.get(node, []))
    for node in reached - set(roots):
        smaller = reached - {node}
        assert any(node in graph.get(source, []) for source in smaller), "something unreached was marked"


@given(GRAPHS, ROOTS, ROOTS)
def test_mark_only_grows_with_its_roots(graph: dict[int, list[int]], roots: list[int], more: list[int]) -> None:
    def edges(node: int) -> list[int]:
        return graph.get(node, [])

    assert mark(roots + more, edges) == mark(roots, edges) | mark(more, edges)
    assert mark(mark(roots, edges), edges) == mark(roots, edges)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.sets(st.integers(0, 30)))
def test_children_come_before_their_parents(choices: list[int], garbage: set[int]) -> None:
    parents = {node: (choice % node if node else None) for node, choice in enumerate(choices)}
    wanted = garbage & parents.keys()
    order = children_first(wanted, parents.__getitem__)
    assert sorted(order) == sorted(wanted)
    place = {node: at for at, node in enumerate(order)}
    for node in order:
        parent = parents[node]
        if parent in place:
            assert place[node] < place[parent]


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
def content(tmp_path: Path) -> MemoryContent:
    return MemoryContent(tmp_path)


@pytest.fixture
def layers(md: Metadata, tmp_path: Path) -> PlainSnapshotter:
    return PlainSnapshotter(md, tmp_path / "snapshots")


async def layer(layers: PlainSnapshotter, parent: Snapshot | None = None, chain_id: str | None = None) -> Snapshot:
    made = await layers.create_layer(parent.id if parent else None)
    (layers.fs_path(made.id) / "file").write_bytes(b"12345")
    return await layers.commit(made.id, chain_id=chain_id)


async def test_an_image_keeps_its_layers_and_blobs(
    md: Metadata, content: MemoryContent, layers: PlainSnapshotter
) -> None:
    app = image()
    lower = await layer(layers)
    top = await layer(layers, lower, app.chain_id)
    blobs = [await content.put(text) for text in (b"manifest", b"config", b"layer")]
    md.images.put(image(manifest_digest=str(blobs[0])), [str(blobs[1]), str(blobs[2])])
    assert await collect(md, content, layers) == Collected()
    md.images.delete(app.id)
    assert await collect(md, content, layers) == Collected(3, 2, len(b"manifestconfiglayer") + 10)
    assert (md.snapshots.ids(), content.digests()) == (set(), [])
    assert not layers.fs_path(top.id).exists()


async def test_containers_cache_and_leases_keep(md: Metadata, content: MemoryContent, layers: PlainSnapshotter) -> None:
    base = await layer(layers)
    cached, leased = await layer(layers, base), await layer(layers, base)
    writable = await layers.create_writable(base.id, uid_base=0)
    blob, held = await content.put(b"cached"), await content.put(b"held")
    md.containers.insert(container(snapshot_id=writable.id, state=ContainerState.EXITED))
    md.cache.put("k", cached.id, blob_digest=str(blob))
    lease = md.leases.create("build")
    md.leases.hold(lease, HoldKind.SNAPSHOT, leased.id)
    md.leases.hold(lease, HoldKind.BLOB, str(held))
    assert await collect(md, content, layers) == Collected()
    md.leases.release(lease)
    assert await collect(md, content, layers) == Collected(1, 1, 9)
    md.cache.delete("k")
    assert await collect(md, content, layers) == Collected(1, 1, 11)
    md.containers.delete(container().id)
    assert await collect(md, content, layers) == Collected(0, 2, 5)


async def test_expired_leases_end(md: Metadata, content: MemoryContent, layers: PlainSnapshotter) -> None:
    lease = md.leases.create("pull", ttl=-1)
    md.leases.hold(lease, HoldKind.BLOB, str(await content.put(b"x")))
    assert (await collect(md, content, layers)).blobs == 1


async def test_what_a_pull_takes_while_others_are_deleted_stays(
    md: Metadata, content: MemoryContent, layers: PlainSnapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that is taken after the marking and before the deletion counts."""
    base = await layer(layers, chain_id="sha256:base")
    blob = await content.put(b"blob")
    lease = md.leases.create("pull")
    usage, delete = layers.usage, content.delete

    async def usage_and_a_pull(snapshot_id: str) -> int:
        md.leases.hold(lease, HoldKind.SNAPSHOT, base.id)
        return await usage(snapshot_id)

    async def delete_and_a_pull(digest: Digest, **options: object) -> bool:
        md.leases.hold(lease, HoldKind.BLOB, str(blob))
        return await delete(digest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(layers, "usage", usage_and_a_pull)
    monkeypatch.setattr(content, "delete", delete_and_a_pull)
    assert await collect(md, content, layers) == Collected()
    assert md.snapshots.by_chain("sha256:base") == base
    assert content.size(blob) == 4


async def test_a_child_that_comes_meanwhile_keeps_its_parent(
    md: Metadata, content: MemoryContent, layers: PlainSnapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await layer(layers)
    lease, usage = md.leases.create("build"), layers.usage

    async def usage_and_a_build(snapshot_id: str) -> int:
        await layers.create_layer(base.id, lease=lease)
        return await usage(snapshot_id)

    monkeypatch.setattr(layers, "usage", usage_and_a_build)
    assert await collect(md, content, layers) == Collected()
    assert md.snapshots.children(base.id) == 1


async def test_lost_directories_partials_and_stale_rows(md: Metadata, layers: PlainSnapshotter, tmp_path: Path) -> None:
    content = LocalContent(tmp_path / "content")
    lost = await layer(layers)
    layers.fs_path(lost.id).joinpath("file").unlink()
    layers.fs_path(lost.id).rmdir()
    digest = Digest.of(b"whole")
    async with content.ingest(digest, 5) as writer:
        writer.write(b"who")
    md.blobs.add(str(digest), 5, "t")
    stray = layers.fs_path("feed")
    stray.mkdir(parents=True)
    assert await collect(md, content, layers) == Collected(0, 1, 0)
    assert not stray.exists()
    assert md.blobs.all() == []
    assert content.partials() == [digest]
    lease = md.leases.create("pull")
    md.leases.hold(lease, "blob", str(digest))
    await collect(md, content, layers, partials=True)
    assert content.partials() == [digest]
    md.leases.release(lease)
    await collect(md, content, layers, partials=True)
    assert content.partials() == []


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(0, 12))
async def test_exactly_the_reachable_stays(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    place = tmp_path_factory.mktemp("gc")
    with Metadata.open(place / "meta.db") as md:
        layers, content = PlainSnapshotter(md, place / "snapshots"), MemoryContent(place)
        made: list[Snapshot] = []
        for _ in range(count):
            parent = data.draw(st.sampled_from([None, *made]))
            made.append(await layer(layers, parent))
        lease = md.leases.create("build")
        roots = data.draw(st.sets(st.sampled_from(made))) if made else set()
        for root in roots:
            md.leases.hold(lease, HoldKind.SNAPSHOT, root.id)
        expected = {each.id for root in roots for each in md.snapshots.chain(root.id)}
        collected = await collect(md, content, layers)
        assert md.snapshots.ids() == expected
        assert collected.snapshots == count - len(expected)
