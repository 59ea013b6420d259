"""What every volume driver does."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoald.metadata import Metadata
from shoald.model.container import Mount, MountKind
from shoald.volumes import local as local_module
from shoald.volumes.local import LocalVolumes
from shoald.volumes.ports import VolumeDriver
from tests.support.records import container


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@pytest.fixture
def volumes(md: Metadata, tmp_path: Path) -> VolumeDriver:
    return LocalVolumes(md, tmp_path / "volumes")


async def test_made_once(volumes: VolumeDriver) -> None:
    before = datetime.now(UTC)
    volume, made = await volumes.ensure("data")
    assert made
    assert (volume.name, volume.anonymous) == ("data", False)
    assert volume.created_at >= before.replace(microsecond=before.microsecond // 1000 * 1000)
    assert os.listdir(volumes.path("data")) == []
    (volumes.path("data") / "file").write_text("x")
    assert await volumes.ensure("data", anonymous=True) == (volume, False)
    assert (volumes.path("data") / "file").read_text() == "x"


async def test_two_callers_make_it_once(volumes: VolumeDriver) -> None:
    results = await asyncio.gather(*(volumes.ensure("data") for _ in range(5)))
    assert sorted(made for _, made in results) == [False] * 4 + [True]


async def test_listed_by_name(volumes: VolumeDriver) -> None:
    for name in ("zz", "aa", "mm"):
        await volumes.ensure(name, anonymous=name == "mm")
    assert [(each.name, each.anonymous) for each in volumes.list()] == [("aa", False), ("mm", True), ("zz", False)]


@pytest.mark.parametrize(
    "name",
    ["", "a", ".x", "-x", "_x", "a/b", "..", "../x", "a b", "a\n", "a\0b", "ä1", "x" * 201, "$(id)", "a:b", ".trash-1"],
)
async def test_names_that_docker_refuses(volumes: VolumeDriver, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await volumes.ensure(name)
    assert caught.value.reason == "INVALID_VOLUME_NAME"
    assert volumes.list() == []


@pytest.mark.parametrize("name", ["ab", "A1", "0_.-", "x" * 200, "a..b"])
async def test_names_that_docker_takes(volumes: VolumeDriver, name: str) -> None:
    await volumes.ensure(name)
    assert volumes.path(name).is_dir()


async def test_missing(volumes: VolumeDriver) -> None:
    with pytest.raises(NotFound) as caught:
        volumes.path("none")
    assert caught.value.reason == "VOLUME_NOT_FOUND"
    with pytest.raises(NotFound):
        await volumes.remove("../none")


async def test_removed_with_its_files(volumes: VolumeDriver, tmp_path: Path) -> None:
    await volumes.ensure("data")
    (volumes.path("data") / "deep").mkdir()
    (volumes.path("data") / "deep" / "link").symlink_to("/etc")
    await volumes.remove("data")
    assert volumes.list() == []
    assert os.listdir(tmp_path / "volumes") == []
    _, made = await volumes.ensure("data")
    assert made
    assert os.listdir("/etc") != []


async def test_in_use(volumes: VolumeDriver, md: Metadata) -> None:
    await volumes.ensure("data")
    await volumes.ensure("other")
    user = container(mounts=(Mount(MountKind.VOLUME, "/d", "data"), Mount(MountKind.BIND, "/o", "other")))
    md.containers.insert(user)
    with pytest.raises(FailedPrecondition) as caught:
        await volumes.remove("data")
    assert caught.value.reason == "VOLUME_IN_USE"
    assert user.id[:12] in str(caught.value)
    await volumes.remove("other")
    md.containers.delete(user.id)
    await volumes.remove("data")


async def test_a_removal_that_a_crash_interrupts(md: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = LocalVolumes(md, tmp_path / "volumes")
    await volumes.ensure("data")
    (volumes.path("data") / "secret").write_text("x")

    def crash(_: Path) -> bool:
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(local_module, "remove_tree", crash)
        with pytest.raises(OSError, match="crash"):
            await volumes.remove("data")
    _, made = await volumes.ensure("data")
    assert made
    assert os.listdir(volumes.path("data")) == []
    assert await volumes.sweep() == 1
    assert os.listdir(tmp_path / "volumes") == ["data"]


async def test_files_without_a_row_are_taken_up_again(md: Metadata, tmp_path: Path) -> None:
    volumes = LocalVolumes(md, tmp_path / "volumes")
    await volumes.ensure("data")
    (volumes.path("data") / "precious").write_text("x")
    md.volumes.delete("data")
    _, made = await volumes.ensure("data")
    assert not made
    assert (volumes.path("data") / "precious").read_text() == "x"


async def test_only_mounts_lead_to_the_data(volumes: VolumeDriver, tmp_path: Path) -> None:
    await volumes.ensure("data")
    assert stat.S_IMODE((tmp_path / "volumes").stat().st_mode) == 0o700
    assert stat.S_IMODE(volumes.path("data").stat().st_mode) == 0o755
