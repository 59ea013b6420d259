"""Mounts of RUN steps, and what is left in a layer after them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument
from shoal.platform import Platform
from shoald.build.agents import Agents
from shoald.build.cachemounts import CacheMounts
from shoald.build.mounts import Prepared, StepMounts
from shoald.build.place import BuildPlace
from shoald.build.solver import Build
from shoald.build.stubs import remove_stubs, stubs_of
from shoald.containers.step import SecretFile
from shoald.dockerfile.errors import Span
from shoald.dockerfile.graph import plan
from shoald.dockerfile.instructions import InlineFile
from shoald.dockerfile.steps import Base, ContextBase, MountType, RunMount, RunStep, ScratchBase, Sharing, StageBase
from shoald.host import mounts
from shoald.model.build import BuildRequest, BuildSecret
from shoald.model.container import Mount, MountKind
from tests.support.unpacked import pack

pytestmark = pytest.mark.root


class PlainRoots:
    """Every stage is the same directory."""

    async def snapshot_of(self, base: Base) -> str | None:
        return "stage"


class PlainSnapshots:
    """Mounts nothing: the directories are there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.mounted_now = 0

    @contextlib.asynccontextmanager
    async def mounted(self, snapshot_id: str | None, *, uid_base: int) -> AsyncIterator[Path]:
        self.mounted_now += 1
        try:
            yield self._directory / (snapshot_id or "empty")
        finally:
            self.mounted_now -= 1


class Place:
    """Directories of a build, and its mounts."""

    def __init__(self, directory: Path) -> None:
        for name in ("context", "stage", "empty", "outside"):
            (directory / name).mkdir()
        self.context, self.stage, self.outside = (directory / name for name in ("context", "stage", "outside"))
        self.cache = directory / "cache"
        self.tmp = directory / "tmp"
        self.snapshots = PlainSnapshots(directory)
        self.mounts = StepMounts(self.snapshots, CacheMounts(self.cache), Agents(), self.tmp)  # type: ignore[arg-type]
        planned = plan(b"FROM scratch\n", target_platform=Platform.host(), build_platform=Platform.host())
        place = BuildPlace(self.tmp)
        place.roots[""] = self.context
        self.build = Build(BuildRequest(b""), planned, place, "lease", 0, lambda event: None)

    @contextlib.asynccontextmanager
    async def prepared(self, *wanted: RunMount, files: Sequence[InlineFile] = ()) -> AsyncIterator[Sequence[Mount]]:
        async with self.made(*wanted, files=files) as made:
            yield made.mounts

    @contextlib.asynccontextmanager
    async def made(self, *wanted: RunMount, files: Sequence[InlineFile] = ()) -> AsyncIterator[Prepared]:
        step = RunStep(
            text="", created_by="", span=Span(), argv=("x",), env={}, user="", workdir="/", mounts=wanted,
            files=tuple(files),
        )  # fmt: skip
        async with self.mounts.prepared(self.build, step, PlainRoots()) as made:
            yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    (made.outside / "canary").touch()
    yield made
    assert os.listdir(made.outside) == ["canary"]
    assert made.snapshots.mounted_now == 0
    assert not made.tmp.exists() or not os.listdir(made.tmp)


def bind(source: str, base: Base = ContextBase(), **fields: Any) -> RunMount:  # noqa: B008
    return RunMount(type=MountType.BIND, target="/m", base=base, source=source, **fields)


def cache(**fields: Any) -> RunMount:
    return RunMount(**{"type": MountType.CACHE, "target": "/c", "read_only": False, "base": ScratchBase(), **fields})


class TestBind:
    @pytest.mark.parametrize("base", [ContextBase(), StageBase(0)])
    async def test_sources_are_resolved_inside_their_root(self, place: Place, base: Base) -> None:
        root = place.context if isinstance(base, ContextBase) else place.stage
        (root / "dir").mkdir()
        (root / "dir/file").touch()
        (root / "absolute").symlink_to("/dir")
        (root / "up").symlink_to("../../../../../dir/file")
        for source, wanted in (
            ("/", ""),
            ("/dir", "dir"),
            ("/absolute", "dir"),
            ("/up", "dir/file"),
            ("/../dir", "dir"),
        ):
            async with place.prepared(bind(source, base)) as (made,):
                assert made == Mount(MountKind.BIND, "/m", str(root / wanted), read_only=True)

    @pytest.mark.parametrize(
        "link", ["{outside}", "../outside", "/proc/self/root", "/proc/self/cwd", "/proc/1/root/etc", "nowhere", "link"]
    )
    async def test_no_source_leads_out(self, place: Place, link: str) -> None:
        """CVE-2024-23651, CVE-2024-1753: a symbolic link names a place in its own root, or nothing."""
        for base, root in ((ContextBase(), place.context), (StageBase(0), place.stage)):
            (root / "link").symlink_to(link.format(outside=place.outside))
            for source in ("/link", "/link/canary", "/link/.."):
                with contextlib.suppress(InvalidArgument):
                    async with place.prepared(bind(source, base)) as (made,):
                        assert Path(made.source).is_relative_to(root)

    @pytest.mark.parametrize("base", [ContextBase(), StageBase(0), ContextBase("more")])
    async def test_a_writable_one_is_a_copy(self, place: Place, base: Base, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        place.build.place.roots["more"] = tmp_path / "more"
        root = place.build.files_of(base) if isinstance(base, ContextBase) else place.stage
        (root / "dir").mkdir()
        (root / "dir/file").write_text("as it was")
        (root / "dir/link").symlink_to("/etc/passwd")
        for source in ("/dir", "/dir/file"):
            async with place.prepared(bind(source, base, read_only=False)) as (made,):
                assert not made.read_only
                file = Path(made.source) / "file" if source == "/dir" else Path(made.source)
                assert file.read_text() == "as it was"
                file.write_text("changed")
                assert source != "/dir" or os.readlink(file.with_name("link")) == "/etc/passwd"
            assert (root / "dir/file").read_text() == "as it was"

    async def test_a_missing_source(self, place: Place) -> None:
        with pytest.raises(InvalidArgument, match='"/none": not found') as caught:
            async with place.prepared(bind("/none")):
                pass
        assert caught.value.reason == "MOUNT_SOURCE_MISSING"

    async def test_an_empty_base(self, place: Place) -> None:
        async with place.prepared(bind("/", ScratchBase())) as (made,):
            assert os.listdir(made.source) == []

    async def test_an_agent_that_was_not_given(self, place: Place) -> None:
        async with place.made(RunMount(type=MountType.SSH, target="/s", id="default")) as made:
            assert (made.mounts, made.env) == ([], {})
        with pytest.raises(FailedPrecondition, match="ssh agent default: not found"):
            async with place.made(RunMount(type=MountType.SSH, target="", id="default", required=True)):
                pass


class TestCache:
    @pytest.mark.parametrize("id_", ["", "a", "..", "../../outside", "/etc", "a\nb", "a/../b", "\udcff", "x" * 5000])
    async def test_any_id_is_a_directory_of_its_own(self, place: Place, id_: str) -> None:
        async with place.prepared(cache(id=id_), cache(id="other")) as (one, other):
            assert Path(one.source).parent == place.cache
            assert Path(one.source).is_dir()
            assert one.source != other.source
            assert not one.read_only

    async def test_it_is_kept(self, place: Place) -> None:
        for _ in range(2):
            async with place.prepared(cache(id="a")) as (made,):
                Path(made.source, "file").touch()
        assert len([name for name in os.listdir(place.cache) if name != ".notes"]) == 1

    async def test_owner_and_mode_are_those_of_the_first(self, place: Place) -> None:
        async with place.prepared(cache(id="a", uid=7, gid=8, mode=0o1770)) as (made,):
            first = os.stat(made.source)
        async with place.prepared(cache(id="a")) as (made,):
            assert os.stat(made.source) == first
        assert (first.st_uid, first.st_gid, stat.S_IMODE(first.st_mode)) == (7, 8, 0o1770)
        assert [name for name in os.listdir(place.cache) if name.startswith(".")] == [".notes"]

    async def test_locked_waits(self, place: Place) -> None:
        mount = cache(id="a", sharing=Sharing.LOCKED)
        entered = asyncio.Event()

        async def second() -> None:
            async with place.prepared(mount):
                entered.set()

        async with place.prepared(mount):
            waiting = asyncio.create_task(second())
            await asyncio.sleep(0.02)
            assert not entered.is_set()
        await asyncio.wait_for(waiting, 10)

    async def test_private_gets_another(self, place: Place) -> None:
        mount = cache(id="a", sharing=Sharing.PRIVATE)
        async with place.prepared(mount) as (one,), place.prepared(mount) as (two,):
            assert one.source != two.source
        async with place.prepared(mount) as (again,):
            assert again.source == one.source

    async def test_shared_is_one(self, place: Place) -> None:
        async with place.prepared(cache(id="a")) as (one,), place.prepared(cache(id="a")) as (two,):
            assert one.source == two.source


async def test_a_cache_begins_with_the_files_of_its_base(place: Place) -> None:
    (place.stage / "start").mkdir(mode=0o750)
    (place.stage / "start/file").write_text("first")
    async with place.prepared(cache(base=StageBase(0), source="/start")) as (made,):
        assert Path(made.source, "file").read_text() == "first"
        assert Path(made.source).stat().st_mode & 0o777 == 0o750
        Path(made.source, "file").write_text("second")
    async with place.prepared(cache(base=StageBase(0), source="/start")) as (again,):
        assert again == made
        assert Path(again.source, "file").read_text() == "second"
    async with place.prepared(cache()) as (plain,):
        assert plain.source != made.source
        assert os.listdir(plain.source) == []


class TestSecret:
    @pytest.fixture(autouse=True)
    def _given(self, place: Place) -> None:
        request = BuildRequest(b"", secrets={"token": BuildSecret(b"s3cret"), "nul": BuildSecret(b"a\0b")})
        place.build = replace(place.build, request=request)

    async def test_a_file_a_variable_or_both(self, place: Place) -> None:
        wanted = RunMount(type=MountType.SECRET, target="/s", id="token", uid=5, mode=0o440)
        async with place.made(bind("/"), wanted) as made:
            assert made.mounts[1] == Mount(MountKind.SECRET, "/s", read_only=True, owner=(5, 0))
            assert made.secrets == [SecretFile(1, b"s3cret", 0o440)]
            assert made.env == {}
            assert "s3cret" not in repr(made) + repr(place.build)
        async with place.made(RunMount(type=MountType.SECRET, target="", id="token", env="TOKEN")) as made:
            assert (made.mounts, made.secrets, made.env) == ([], [], {"TOKEN": "s3cret"})
        async with place.made(RunMount(type=MountType.SECRET, target="/s", id="token", env="TOKEN")) as made:
            assert (len(made.mounts), made.env) == (1, {"TOKEN": "s3cret"})

    async def test_one_that_was_not_given(self, place: Place) -> None:
        async with place.made(RunMount(type=MountType.SECRET, target="/s", id="other")) as made:
            assert (made.mounts, made.secrets, made.env) == ([], [], {})
        with pytest.raises(FailedPrecondition, match="secret other: not found"):
            async with place.made(RunMount(type=MountType.SECRET, target="/s", id="other", required=True)):
                pass

    async def test_no_variable_holds_nul(self, place: Place) -> None:
        with pytest.raises(InvalidArgument, match="NUL"):
            async with place.made(RunMount(type=MountType.SECRET, target="", id="nul", env="X")):
                pass


async def test_heredoc_files(place: Place) -> None:
    files = [InlineFile("EOF", "#!/bin/sh\n\udcff"), InlineFile("X", "")]
    async with place.prepared(files=files) as made:
        assert [mount.target for mount in made] == ["/dev/pipes/EOF", "/dev/pipes/X"]
        assert [Path(mount.source).read_bytes() for mount in made] == [b"#!/bin/sh\n\xff", b""]
        assert all(mount.read_only and os.access(mount.source, os.X_OK) for mount in made)


async def test_tmpfs(place: Place) -> None:
    async with place.prepared(RunMount(type=MountType.TMPFS, target="/t", size=4096)) as made:
        assert made == [Mount(MountKind.TMPFS, "/t", tmpfs_size_bytes=4096)]


class Layer:
    """The upper directory of a real overlay, with `run` in place of a step."""

    def __init__(self, directory: Path) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (directory / name).mkdir()
        self.lower, self.upper, self.merged = (directory / name for name in ("lower", "upper", "merged"))
        self._work = directory / "work"

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self._work}"
        mounts.mount("overlay", self.merged, "overlay", data=options)
        try:
            yield self.merged
        finally:
            mounts.unmount_tree(self.merged, detach=True)

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.upper)) for path in self.upper.rglob("*"))


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path)


def stub(root: Path, *paths: str) -> None:
    """What a runtime makes to mount over: files when the name has a dot or is known, else directories."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("etc/") or path.endswith(".txt"):
            (root / path).touch()
        else:
            (root / path).mkdir(exist_ok=True)


DEFAULT = ("etc/resolv.conf", "etc/hosts", "etc/hostname", "dev", "proc", "sys")


class TestStubs:
    def test_nothing_is_left(self, layer: Layer) -> None:
        with layer.mounted() as root:
            stub(root, *DEFAULT, "root/.cache/pip", "a/b/file.txt")
        remove_stubs(layer.upper, ["/root/.cache/pip", "/a/b/file.txt", "/root//./.cache/"])
        assert layer.left() == []

    def test_what_the_step_wrote_stays(self, layer: Layer) -> None:
        with layer.mounted() as root:
            stub(root, *DEFAULT, "data/cache")
            (root / "etc/passwd").write_text("x")
            (root / "data/result").touch()
            (root / "dev/real").touch()
        remove_stubs(layer.upper, ["/data/cache"])
        assert layer.left() == ["data", "data/result", "dev", "dev/real", "etc", "etc/passwd"]

    def test_a_file_with_content_stays(self, layer: Layer) -> None:
        with layer.mounted() as root:
            stub(root, "etc/hosts")
            (root / "etc/hosts").write_text("x")
        remove_stubs(layer.upper)
        assert layer.left() == ["etc", "etc/hosts"]

    def test_what_lies_below_is_seen_again(self, layer: Layer) -> None:
        (layer.lower / "etc").mkdir()
        (layer.lower / "home/app").mkdir(parents=True)
        with layer.mounted() as root:
            stub(root, *DEFAULT, "home/app/.cache")
        remove_stubs(layer.upper, ["/home/app/.cache"])
        with layer.mounted() as root:
            assert sorted(p.name for p in root.iterdir()) == ["etc", "home"]
            assert os.listdir(root / "home/app") == []

    def test_a_change_of_owner_or_mode_stays(self, layer: Layer) -> None:
        for name in ("home/app", "home/other", "etc"):
            (layer.lower / name).mkdir(parents=True)
        with layer.mounted() as root:
            stub(root, *DEFAULT, "home/app/.cache", "home/other/.cache", "fresh/.cache")
            os.chown(root / "home/app", 7, 7)
            os.chmod(root / "home/other", 0o700)
            os.chmod(root / "etc", 0o700)
            os.chown(root / "fresh", 7, 7)
        remove_stubs(layer.upper, ["/home/app/.cache", "/home/other/.cache", "/fresh/.cache"])
        with layer.mounted() as root:
            assert os.stat(root / "home/app").st_uid == 7
            assert os.stat(root / "fresh").st_uid == 7
            assert stat.S_IMODE(os.stat(root / "home/other").st_mode) == 0o700
            assert stat.S_IMODE(os.stat(root / "etc").st_mode) == 0o700
            assert list(root.rglob(".cache")) == []

    def test_an_archive_without_them(self, layer: Layer) -> None:
        (layer.lower / "data").mkdir()
        with layer.mounted() as root:
            stub(root, *DEFAULT, "data/cache", "a/b/file.txt", "late/mount")
            (root / "dev/real").touch()
            (root / "empty").touch()
        targets = ["/data/cache", "/a/b/file.txt", "/late/mount"]
        found = stubs_of(layer.upper, targets)
        kept = ["data", "dev", "dev/real", "empty"]
        # What is written there after it was looked at is packed.
        (layer.upper / "late/mount/written").touch()
        archive, _ = pack(layer.upper, without=found)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            assert sorted(tar.getnames()) == sorted([*kept, "late", "late/mount", "late/mount/written"])
        (layer.upper / "late/mount/written").unlink()
        remove_stubs(layer.upper, targets)
        assert layer.left() == kept

    def test_deletions_stay(self, layer: Layer) -> None:
        (layer.lower / "etc").mkdir()
        (layer.lower / "etc/hosts").write_text("x")
        (layer.lower / "gone").mkdir()
        with layer.mounted() as root:
            os.unlink(root / "etc/hosts")
            os.rmdir(root / "gone")
        remove_stubs(layer.upper, ["/gone"])
        with layer.mounted() as root:
            assert not (root / "etc/hosts").exists()
            assert not (root / "gone").exists()

    def test_links_are_not_followed(self, layer: Layer, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        (outside / "dir").mkdir(parents=True)
        (outside / "hosts").touch()
        (layer.upper / "etc").symlink_to(outside)
        (layer.upper / "dev").symlink_to(outside / "dir")
        (layer.upper / "x").symlink_to(outside)
        (layer.upper / "real").mkdir()
        (layer.upper / "real/kept").touch()
        remove_stubs(layer.upper, ["/x/dir", "/x/../outside/dir", "/real/../../outside/dir", "/", "", "/.."])
        assert layer.left() == ["dev", "etc", "real", "real/kept", "x"]
        assert sorted(os.listdir(outside)) == ["dir", "hosts"]
