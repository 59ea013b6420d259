"""What every snapshotter does, and what overlayfs adds."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from shoald.host.mounts import mount_points
from shoald.host.userns import UserNamespaces
from shoald.metadata import Metadata
from shoald.model.snapshot import Snapshot
from shoald.snapshots import overlay as overlay_module
from shoald.snapshots.overlay import OverlaySnapshotter
from shoald.snapshots.ports import Snapshotter
from tests.support.plain_snapshots import PlainSnapshotter

BASE = 0x70010000


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
async def overlays(md: Metadata, tmp_path: Path) -> AsyncIterator[OverlaySnapshotter]:
    namespaces = UserNamespaces()
    yield OverlaySnapshotter(md, tmp_path / "snapshots", tmp_path / "mounts", namespaces)
    await namespaces.aclose()
    assert os.listdir(tmp_path / "mounts") == []
    assert mount_points(tmp_path) == []


@pytest.fixture
def plain(md: Metadata, tmp_path: Path) -> PlainSnapshotter:
    return PlainSnapshotter(md, tmp_path / "snapshots")


@pytest.fixture(params=[pytest.param("overlays", marks=pytest.mark.root), "plain"])
def store(request: pytest.FixtureRequest) -> Snapshotter:
    made: Snapshotter = request.getfixturevalue(request.param)
    return made


async def layer(store: Snapshotter, parent: str | None = None, chain_id: str | None = None, **files: str) -> Snapshot:
    made = await store.create_layer(parent)
    for name, text in files.items():
        (store.fs_path(made.id) / name).write_text(text)
    return await store.commit(made.id, chain_id=chain_id)


async def test_layers_and_their_chain(store: Snapshotter, md: Metadata) -> None:
    lower = await layer(store, a="1")
    upper = await layer(store, lower.id, "sha256:two", b="22")
    assert [each.id for each in store.chain(upper.id)] == [upper.id, lower.id]
    assert store.chain(None) == []
    assert upper.committed
    assert upper.size_bytes >= 2
    assert md.snapshots.by_chain("sha256:two") == upper
    with pytest.raises(NotFound):
        store.chain("nope")


async def test_a_container_sees_all_layers_and_writes_to_its_own(store: Snapshotter) -> None:
    lower = await layer(store, a="lower", b="lower")
    upper = await layer(store, lower.id, b="upper")
    writable = await store.create_writable(upper.id, uid_base=0)
    async with store.mounted(writable.id, read_only=False) as path:
        assert (path / "a").read_text() == "lower"
        assert (path / "b").read_text() == "upper"
        (path / "a").write_text("mine")
        (path / "new").write_text("mine")
    assert sorted(os.listdir(store.fs_path(writable.id))) == ["a", "new"]
    assert (store.fs_path(lower.id) / "a").read_text() == "lower"
    async with store.mounted(writable.id) as path:
        assert (path / "a").read_text() == "mine"
    committed = await store.commit(writable.id)
    async with store.mounted(committed.id) as path:
        assert sorted(os.listdir(path)) == ["a", "b", "new"]


async def test_layers_unpacked_side_by_side_are_stacked_when_committed(store: Snapshotter, md: Metadata) -> None:
    one, two = await store.create_layer(None), await store.create_layer(None)
    (store.fs_path(one.id) / "a").write_text("1")
    (store.fs_path(two.id) / "b").write_text("2")
    with pytest.raises(FailedPrecondition):
        md.snapshots.adopt(two.id, one.id)
    await store.sync()
    lower = await store.commit(one.id, chain_id="sha256:1", durable=False)
    md.snapshots.adopt(two.id, lower.id)
    upper = await store.commit(two.id, chain_id="sha256:2", durable=False)
    assert upper.parent_id == lower.id
    async with store.mounted(upper.id) as path:
        assert sorted(os.listdir(path)) == ["a", "b"]
    with pytest.raises(FailedPrecondition):
        md.snapshots.adopt(lower.id, upper.id)


async def test_no_committed_layer_on_top_of_an_active_one(store: Snapshotter) -> None:
    lower = await store.create_layer(None)
    upper = await store.create_layer(lower.id)
    with pytest.raises(FailedPrecondition) as caught:
        await store.commit(upper.id)
    assert caught.value.reason == "SNAPSHOT_NOT_COMMITTED"


async def test_scratch(store: Snapshotter) -> None:
    async with store.mounted(None) as path:
        assert os.listdir(path) == []
    writable = await store.create_writable(None, uid_base=0)
    async with store.mounted(writable.id, read_only=False) as path:
        (path / "x").write_text("x")
    assert os.listdir(store.fs_path(writable.id)) == ["x"]


async def test_the_same_layer_is_kept_once(store: Snapshotter, md: Metadata) -> None:
    first = await layer(store, chain_id="sha256:c", a="1")
    second = await layer(store, chain_id="sha256:c", a="1")
    assert second == first
    assert md.snapshots.ids() == {first.id}
    assert await store.sweep() == 0


async def test_a_throw_away_layer_can_be_mounted_again_and_committed(store: Snapshotter, tmp_path: Path) -> None:
    lower = await layer(store, a="1")
    writable = await store.create_writable(lower.id, uid_base=0)
    target = tmp_path / "here"
    target.mkdir()
    for number in range(3):
        await store.mount(writable.id, target, uid_base=0, volatile=number != 1)
        (target / f"b{number}").write_text("2")
        await store.unmount(target)
    committed = await store.commit(writable.id)
    async with store.mounted(committed.id) as path:
        assert sorted(os.listdir(path)) == ["a", "b0", "b1", "b2"]


async def test_a_container_needs_a_committed_parent(store: Snapshotter) -> None:
    active = await store.create_layer(None)
    with pytest.raises(FailedPrecondition) as caught:
        await store.create_writable(active.id, uid_base=0)
    assert caught.value.reason == "SNAPSHOT_NOT_COMMITTED"


async def test_unknown_snapshots(store: Snapshotter, md: Metadata) -> None:
    for call in (store.create_layer("no"), store.create_writable("no", uid_base=0), store.commit("no")):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "SNAPSHOT_NOT_FOUND"
    await store.remove("no")
    assert md.snapshots.ids() == set()
    assert await store.sweep() == 0


async def test_remove(store: Snapshotter, md: Metadata) -> None:
    lower = await layer(store, a="1")
    upper = await layer(store, lower.id)
    with pytest.raises(FailedPrecondition) as caught:
        await store.remove(lower.id)
    assert caught.value.reason == "SNAPSHOT_HAS_CHILDREN"
    assert store.fs_path(lower.id).is_dir()
    await store.remove(upper.id)
    await store.remove(lower.id)
    assert not store.fs_path(lower.id).parent.exists()
    assert md.snapshots.ids() == set()
    assert await store.sweep() == 0


async def test_sweep_takes_directories_without_a_row_only(store: Snapshotter) -> None:
    kept = await layer(store, a="1")
    stranger = store.fs_path("feed").parent
    (stranger / "fs").mkdir(parents=True)
    assert await store.sweep() == 1
    assert not stranger.exists()
    assert store.fs_path(kept.id).is_dir()


async def test_a_lease_holds_from_the_first_moment(store: Snapshotter, md: Metadata) -> None:
    with md.leases.lease("build") as lease:
        made = await store.create_layer(None, lease=lease)
        assert md.references.snapshots() == {made.id}
    with pytest.raises(NotFound):
        await store.create_layer(None, lease=lease)
    assert md.snapshots.ids() == {made.id}
    assert await store.sweep() == 0


async def test_other_ids_than_it_was_made_for(store: Snapshotter, tmp_path: Path) -> None:
    writable = await store.create_writable(None, uid_base=0)
    with pytest.raises(InvalidArgument) as caught:
        await store.mount(writable.id, tmp_path, uid_base=BASE)
    assert caught.value.reason == "UPPER_ID_MISMATCH"


async def test_lost_files_are_named(store: Snapshotter) -> None:
    made = await layer(store)
    os.rename(store.fs_path(made.id), store.fs_path(made.id).with_name("elsewhere"))
    with pytest.raises(DataLoss) as caught:
        async with store.mounted(made.id):
            pass
    assert caught.value.reason == "SNAPSHOT_LOST"


@pytest.mark.root
class TestOverlay:
    async def test_ids_are_shifted_both_ways(self, overlays: OverlaySnapshotter) -> None:
        made = await overlays.create_layer(None)
        file = overlays.fs_path(made.id) / "file"
        file.write_text("x")
        os.chown(file, 1000, 50)
        image = await overlays.commit(made.id)
        writable = await overlays.create_writable(image.id, uid_base=BASE)
        async with overlays.mounted(writable.id, uid_base=BASE, read_only=False) as path:
            assert ((path / "file").stat().st_uid, (path / "file").stat().st_gid) == (BASE + 1000, BASE + 50)
            assert path.stat().st_uid == BASE
            (path / "file").write_text("changed")
        assert (overlays.fs_path(writable.id) / "file").stat().st_uid == BASE + 1000
        committed = await overlays.commit(writable.id)
        for base in (0, BASE, BASE + 0x10000):
            async with overlays.mounted(committed.id, uid_base=base) as path:
                assert (path / "file").stat().st_uid == base + 1000
                assert path.stat().st_uid == base

    async def test_the_root_looks_like_its_parent(self, overlays: OverlaySnapshotter) -> None:
        made = await overlays.create_layer(None)
        os.chown(overlays.fs_path(made.id), 7, 8)
        overlays.fs_path(made.id).chmod(0o1751)
        image = await overlays.commit(made.id)
        writable = await overlays.create_writable(image.id, uid_base=BASE)
        found = overlays.fs_path(writable.id).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o1751, BASE + 7, BASE + 8)

    async def test_deletions_become_whiteouts_and_hide_below(self, overlays: OverlaySnapshotter) -> None:
        lower = await layer(overlays, a="1", b="2")
        writable = await overlays.create_writable(lower.id, uid_base=0)
        async with overlays.mounted(writable.id, read_only=False) as path:
            (path / "a").unlink()
        whiteout = (overlays.fs_path(writable.id) / "a").lstat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert whiteout.st_rdev == 0
        committed = await overlays.commit(writable.id)
        async with overlays.mounted(committed.id) as path:
            assert os.listdir(path) == ["b"]

    async def test_committed_and_read_only_mounts_cannot_be_written(self, overlays: OverlaySnapshotter) -> None:
        lower = await layer(overlays, a="1")
        upper = await layer(overlays, lower.id)
        writable = await overlays.create_writable(upper.id, uid_base=0)
        for snapshot in (lower, upper, writable):
            async with overlays.mounted(snapshot.id) as path:
                with pytest.raises(OSError, match="Read-only"):
                    (path / "b").write_text("x")

    async def test_a_hundred_layers(self, overlays: OverlaySnapshotter) -> None:
        parent = None
        for number in range(100):
            made = await overlays.create_layer(parent)
            (overlays.fs_path(made.id) / f"f{number}").touch()
            parent = (await overlays.commit(made.id, durable=False, size_bytes=0)).id
        writable = await overlays.create_writable(parent, uid_base=BASE)
        async with overlays.mounted(writable.id, uid_base=BASE, read_only=False) as path:
            assert len(os.listdir(path)) == 100

    async def test_an_error_inside_unmounts(self, overlays: OverlaySnapshotter, tmp_path: Path) -> None:
        image = await layer(overlays, a="1")
        with pytest.raises(RuntimeError):
            async with overlays.mounted(image.id):
                raise RuntimeError
        assert mount_points(tmp_path) == []

    async def test_a_busy_mount_goes_out_of_sight(self, overlays: OverlaySnapshotter, tmp_path: Path) -> None:
        image = await layer(overlays, a="1")
        async with overlays.mounted(image.id) as path:
            fd = os.open(path / "a", os.O_RDONLY)
        try:
            assert mount_points(tmp_path) == []
            assert os.read(fd, 9) == b"1"
        finally:
            os.close(fd)

    @pytest.mark.parametrize("rounds", range(6))
    async def test_cancelled_at_any_await_leaves_nothing(
        self, overlays: OverlaySnapshotter, tmp_path: Path, rounds: int
    ) -> None:
        image = await layer(overlays, a="1")
        writable = await overlays.create_writable(image.id, uid_base=BASE)

        async def use() -> None:
            async with overlays.mounted(writable.id, uid_base=BASE, read_only=False):
                await asyncio.sleep(60)

        task = asyncio.create_task(use())
        # From the first steps of the loop to the time when it is mounted.
        await asyncio.sleep(rounds * 0.002 if rounds else 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mount_points(tmp_path) == []
        assert os.listdir(tmp_path / "mounts") == []

    async def test_a_removal_that_is_cancelled_is_complete(self, overlays: OverlaySnapshotter, md: Metadata) -> None:
        made = await layer(overlays, a="1")
        task = asyncio.create_task(overlays.remove(made.id))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert md.snapshots.ids() == set()
        assert await overlays.sweep() == 0

    async def test_half_a_removal_is_finished_by_sweep(
        self, overlays: OverlaySnapshotter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        made = await layer(overlays, a="1")

        def fail(_: Path) -> bool:
            raise OSError("crash")

        with monkeypatch.context() as patch:
            patch.setattr(overlay_module, "remove_tree", fail)
            with pytest.raises(OSError, match="crash"):
                await overlays.remove(made.id)
        assert await overlays.sweep() == 1
        assert os.listdir(tmp_path / "snapshots") == [".empty"]

    async def test_ids_do_not_climb(self, overlays: OverlaySnapshotter, md: Metadata) -> None:
        for bad in ("../x", ".empty", "a/b", "/etc"):
            with pytest.raises(InvalidArgument):
                await overlays.remove(bad)

    async def test_recover_clears_mounts_of_a_dead_daemon(self, overlays: OverlaySnapshotter, tmp_path: Path) -> None:
        image = await layer(overlays, a="1")
        target = tmp_path / "mounts" / "left"
        target.mkdir()
        await overlays.mount(image.id, target, uid_base=0)
        await overlays.recover()
        assert mount_points(tmp_path) == []
        assert os.listdir(tmp_path / "mounts") == []

    async def test_a_full_disk_leaves_no_row(self, md: Metadata, small_disk: Path, tmp_path: Path) -> None:
        store = OverlaySnapshotter(md, small_disk / "snapshots", tmp_path / "m", UserNamespaces())

        async def fill() -> None:
            for _ in range(1000):
                await store.create_layer(None)

        with pytest.raises(ResourceExhausted) as caught:
            await fill()
        assert caught.value.reason == "DISK_FULL"
        assert {entry for entry in os.listdir(small_disk / "snapshots") if entry != ".empty"} == md.snapshots.ids()

    async def test_others_cannot_reach_layers(self, overlays: OverlaySnapshotter, tmp_path: Path) -> None:
        made = await layer(overlays)
        for path in (tmp_path / "snapshots", tmp_path / "mounts", overlays.fs_path(made.id).parent):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
