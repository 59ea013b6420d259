"""Bind mounts and overlays over idmapped layers on the real kernel."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound, ShoalError
from shoald.host import mounts, overlayfs
from shoald.host.kernel import probe_all, supports_idmapped_overlay_lowers
from shoald.host.mounts import MountFlags, mount_points
from shoald.host.overlayfs import LowerLayer, overlay
from shoald.host.process import run
from shoald.host.userns import IdMap, UserNamespaces, make_user_namespace

pytestmark = pytest.mark.root

BASE = 500_000
SIZE = 65_536


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory that mapped users may enter; its mounts are gone and its files removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="shoal-test-", dir="/var/tmp"))
    path.chmod(0o755)
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        yield path
        assert [mounted.path for mounted in mount_points(path)] == []
        assert not list(Path("/run").glob("shoal-layers-*"))
        # Fewer: garbage of other tests was collected meanwhile.
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    finally:
        mounts.unmount_tree(path, detach=True)
        shutil.rmtree(path)


@pytest.fixture(params=["best", "descriptors", "strings", "page"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to hand layers to the kernel, as far as the kernel of this machine has it."""
    ways = {
        "best": [],
        "descriptors": [overlayfs._by_descriptors],
        "strings": [overlayfs._by_strings],
        "page": [overlayfs._by_page],
    }
    if request.param == "descriptors" and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15):
        pytest.skip("needs Linux 6.15")
    if request.param == "strings" and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        pytest.skip("needs Linux 6.7")
    monkeypatch.setattr(overlayfs, "_ways", ways[request.param])
    name: str = request.param
    return name


def make_layers(area: Path, count: int, bases: tuple[int, ...] = (0, 300_000)) -> list[LowerLayer]:
    """Layers with hostile names; file N of layer N belongs to 7:8 of the layer's base, `owner` to its root."""
    layers = []
    for number in range(count):
        base = bases[number % len(bases)]
        path = area / f"layer,{number}:\\x y\\" / ("deep" * 20)
        path.mkdir(parents=True)
        (path / f"f{number}").write_text(str(number))
        os.chown(path / f"f{number}", base + 7, base + 8)
        os.chown(path, base, base)
        (path / "top").write_text(f"from {number}")
        os.chown(path / "top", base, base)
        layers.append(LowerLayer(path, IdMap(base, BASE, SIZE)))
    return layers


def make_writable(area: Path) -> tuple[Path, Path, Path]:
    paths = (area / "merged", area / "upper,:", area / "work,:")
    for path in paths:
        path.mkdir()
        os.chown(path, BASE, BASE)
    return paths


async def test_layers_of_different_bases_look_alike(area: Path, way: str) -> None:
    layers = make_layers(area, 3)
    merged, upper, work = make_writable(area)
    namespaces = UserNamespaces()
    async with namespaces.hold([layer.idmap for layer in layers if layer.idmap]) as fds:
        overlay(merged, layers, upper, work, userns=fds)
    await namespaces.aclose()
    try:
        for number in range(3):
            found = (merged / f"f{number}").stat()
            assert (found.st_uid, found.st_gid) == (BASE + 7, BASE + 8), number
        assert (merged / "top").read_text() == "from 0"
        assert merged.stat().st_uid == BASE
        # A copy up keeps the owner that is seen, and the upper directory holds it plainly.
        with open(merged / "f1", "a") as file:
            file.write("!")
        assert (upper / "f1").stat().st_uid == BASE + 7
        (merged / "f2").unlink()
        assert (layers[2].path / "f2").exists()
        assert (layers[1].path / "f1").read_text() == "1"
    finally:
        mounts.unmount(merged)


async def test_a_user_namespace_sees_plain_ids_and_may_write(area: Path, way: str) -> None:
    layers = make_layers(area, 2)
    merged, upper, work = make_writable(area)
    namespaces = UserNamespaces()
    async with namespaces.hold([layer.idmap for layer in layers if layer.idmap]) as fds:
        overlay(merged, layers, upper, work, userns=fds)
    await namespaces.aclose()
    container = await make_user_namespace(IdMap(0, BASE, SIZE))
    try:
        script = (
            f"cd '{merged}' && stat -c %u:%g top f0 f1 && touch new && chown 5:6 f1 && rm f0 && stat -c %u:%g new f1"
        )
        enter = ["nsenter", f"--user=/proc/self/fd/{container}", "--setuid", "0", "--setgid", "0", "sh", "-c", script]
        completed = await run(enter, pass_fds=[container])
        assert completed.stdout.split() == [b"0:0", b"7:8", b"7:8", b"0:0", b"5:6"]
        assert (upper / "new").stat().st_uid == BASE
        assert (upper / "f1").stat().st_gid == BASE + 6
    finally:
        os.close(container)
        mounts.unmount(merged)


async def test_many_layers(area: Path, way: str) -> None:
    layers = make_layers(area, 100)
    assert sum(len(str(layer.path)) for layer in layers) > 4096
    merged, upper, work = make_writable(area)
    namespaces = UserNamespaces()
    async with namespaces.hold([layer.idmap for layer in layers if layer.idmap]) as fds:
        overlay(merged, layers, upper, work, userns=fds)
    await namespaces.aclose()
    try:
        assert {name for name in os.listdir(merged) if name != "top"} == {f"f{number}" for number in range(100)}
        assert {(merged / f"f{number}").stat().st_uid for number in range(100)} == {BASE + 7}
    finally:
        mounts.unmount(merged)


def test_plain_layers_up_to_the_limit(area: Path, way: str) -> None:
    layers = [LowerLayer(layer.path) for layer in make_layers(area, overlayfs.MAX_LOWERS, bases=(0,))]
    merged, upper, work = make_writable(area)
    overlay(merged, layers, upper, work, volatile=True)
    try:
        assert (merged / "f127").stat().st_uid == 7
        (merged / "x").touch()
    finally:
        mounts.unmount(merged)
    with pytest.raises(InvalidArgument):
        overlay(merged, [*layers, layers[0]], upper, work)


@pytest.mark.parametrize("count", [1, 2])
def test_without_an_upper_it_is_read_only(area: Path, way: str, count: int) -> None:
    layers = [LowerLayer(layer.path) for layer in make_layers(area, count, bases=(0,))]
    merged, _, _ = make_writable(area)
    overlay(merged, layers, flags=MountFlags.NOSUID | MountFlags.NODEV)
    try:
        assert (merged / "top").read_text() == "from 0"
        with pytest.raises(OSError, match="Read-only"):
            (merged / "x").touch()
        assert {"ro", "nosuid", "nodev"} <= mount_points(merged)[-1].options
    finally:
        mounts.unmount(merged)


async def test_a_refused_overlay_leaves_nothing(area: Path, way: str) -> None:
    layers = make_layers(area, 3)
    merged, upper, _ = make_writable(area)
    namespaces = UserNamespaces()
    async with namespaces.hold([layer.idmap for layer in layers if layer.idmap]) as fds:
        with pytest.raises(ShoalError) as caught:
            # The work directory must be on the upper's file system.
            overlay(merged, layers, upper, Path("/proc"), userns=fds)
        assert str(merged) in str(caught.value)
        with pytest.raises(NotFound):
            overlay(merged, [*layers, LowerLayer(area / "gone")], upper, upper, userns=fds)
    await namespaces.aclose()
    assert mount_points(area) == []


def test_scratch_of_a_killed_process_is_removed() -> None:
    # No process has this id: it is beyond the kernel's largest.
    stale = Path("/run") / f"shoal-layers-{2**22 + 1}-test"
    own = Path("/run") / f"shoal-layers-{os.getpid()}-test"
    for path in (stale, own):
        path.mkdir()
    try:
        mounts.mount("shoal-layers", stale, "tmpfs")
        assert stale in overlayfs.remove_stale_scratch()
        assert not stale.exists()
        assert own.exists()
    finally:
        mounts.unmount_tree(stale, detach=True)
        for path in (stale, own):
            if path.exists():
                path.rmdir()


def test_a_layer_that_is_a_symlink_is_refused(area: Path) -> None:
    (area / "link").symlink_to("/etc")
    merged, upper, work = make_writable(area)
    with pytest.raises(ShoalError):
        overlay(merged, [LowerLayer(area / "link")], upper, work)


def test_bind_read_only_and_recursive(area: Path) -> None:
    for name in ("source/below", "target"):
        (area / name).mkdir(parents=True)
    mounts.mount(None, area / "source" / "below", "tmpfs", data="size=64k")
    (area / "source" / "below" / "file").touch()
    try:
        mounts.bind(area / "source", area / "target", read_only=True, recursive=True)
        assert (area / "target" / "below" / "file").exists()
        for directory in ("target", "target/below"):
            with pytest.raises(OSError, match="Read-only"):
                (area / directory / "x").touch()
        (area / "source" / "x").touch()
        mounts.unmount_tree(area / "target")
        mounts.bind(area / "source", area / "target")
        assert not (area / "target" / "below" / "file").exists()
    finally:
        mounts.unmount_tree(area)


async def test_bind_of_a_file_by_descriptor_with_mapped_ids(area: Path) -> None:
    (area / "file").write_text("x")
    (area / "target").touch()
    source = os.open(area / "file", os.O_PATH)
    userns = await make_user_namespace(IdMap(0, BASE, SIZE))
    try:
        mounts.bind(source, area / "target", userns=userns, flags=MountFlags.NOEXEC)
        assert (area / "target").stat().st_uid == BASE
        assert "noexec" in mount_points(area / "target")[0].options
    finally:
        mounts.unmount(area / "target")
        os.close(source)
        os.close(userns)


def test_bind_does_not_follow_a_symlink_at_its_target(area: Path) -> None:
    for name in ("source", "victim"):
        (area / name).mkdir()
    (area / "target").symlink_to("victim")
    with pytest.raises(ShoalError):
        mounts.bind(area / "source", area / "target")
    with pytest.raises(NotFound):
        mounts.bind(area / "gone", area / "victim")
    assert mount_points(area) == []


def test_unmount(area: Path) -> None:
    (area / "a b").mkdir()
    assert mounts.unmount(area / "a b") is False
    assert mounts.unmount(area / "gone") is False
    for _ in range(3):
        mounts.mount("none", area / "a b", "tmpfs")
    assert len(mount_points(area)) == 3
    with open(area / "a b" / "busy", "w"):
        with pytest.raises(FailedPrecondition) as caught:
            mounts.unmount(area / "a b")
        assert caught.value.reason == "PATH_BUSY"
        assert mounts.unmount(area / "a b", detach=True) is True
    assert mounts.unmount_tree(area) == [area / "a b"] * 2


async def test_namespaces_are_cached_shared_and_bounded() -> None:
    namespaces = UserNamespaces(capacity=2)
    maps = [IdMap(0, BASE + number * SIZE, SIZE) for number in range(4)]
    async with namespaces.hold(maps) as fds:
        assert len(set(fds.values())) == 4
        async with namespaces.hold(maps) as again:
            assert again == fds
        for fd in fds.values():
            os.fstat(fd)
    async with namespaces.hold(maps[2:]) as kept:
        assert kept == {idmap: fds[idmap] for idmap in maps[2:]}
    for idmap in maps[:2]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fds[idmap])
    own = await namespaces.fd(maps[3])
    await namespaces.aclose()
    os.fstat(own)
    os.close(own)


async def test_a_namespace_in_the_making_survives_a_cancelled_caller() -> None:
    namespaces = UserNamespaces()
    idmap = IdMap(0, BASE, SIZE)
    first = asyncio.create_task(namespaces.fd(idmap))
    await asyncio.sleep(0)
    second = asyncio.create_task(namespaces.fd(idmap))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    fd = await second
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("user:[")
    os.close(fd)
    await namespaces.aclose()


async def test_a_namespace_that_can_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    namespaces = UserNamespaces()
    with pytest.raises(FailedPrecondition) as caught:
        await namespaces.fd(IdMap(0, BASE, SIZE))
    assert caught.value.reason == "PROGRAM_MISSING"
    await namespaces.aclose()


async def test_probes_find_what_this_machine_has(area: Path) -> None:
    probes = {probe.name: probe for probe in await probe_all(area)}
    assert probes["overlay"].ok, probes["overlay"]
    assert probes["idmapped mounts"].ok, probes["idmapped mounts"]
    assert await supports_idmapped_overlay_lowers(area)
    assert os.listdir(area) == []
    # procfs can hold no upper directory: the probe must notice and say what follows.
    bad = {probe.name: probe for probe in await probe_all(Path("/proc"))}
    assert not bad["overlay"].ok
    assert "ext4" in bad["overlay"].consequence
