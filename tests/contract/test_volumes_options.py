"""Volumes with driver options: what is mounted, for how long, and what a killed daemon leaves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from shoald.host.mounts import MountFlags, mount_points, unmount_tree
from shoald.host.syscall import translated
from shoald.metadata import Metadata
from shoald.model.container import ContainerState, Mount, MountKind
from shoald.volumes import mounting
from shoald.volumes.local import LocalVolumes
from shoald.volumes.options import VolumeMount, volume_mount
from tests.support.records import container

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

TMPFS = {"type": "tmpfs", "o": "size=1m,mode=700"}


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened
    unmount_tree(tmp_path, detach=True)


@pytest.fixture
def told() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def volumes(md: Metadata, tmp_path: Path, told: list[tuple[str, str, str]]) -> LocalVolumes:
    return LocalVolumes(
        md,
        tmp_path / "volumes",
        lambda kind, action, name, more: told.append((action, name, more.get("container", ""))),
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, None),
        ({"type": "tmpfs"}, VolumeMount("tmpfs", "tmpfs")),
        (
            {"type": "tmpfs", "device": "tmpfs", "o": "size=10m,uid=7,ro,noexec"},
            VolumeMount("tmpfs", "tmpfs", MountFlags.READ_ONLY | MountFlags.NOEXEC, "size=10m,uid=7"),
        ),
        ({"type": "none", "o": "bind", "device": "/srv"}, VolumeMount("bind", "/srv")),
        ({"o": "rbind,ro", "device": "/srv"}, VolumeMount("bind", "/srv", MountFlags.READ_ONLY, recursive=True)),
        (
            {"type": "nfs", "o": "addr=10.0.0.1,rw,nfsvers=4,timeo=10", "device": ":/x"},
            VolumeMount("nfs", ":/x", MountFlags.NONE, "nfsvers=4,timeo=10", address="10.0.0.1"),
        ),
        ({"type": "nfs4", "device": "srv:/x"}, VolumeMount("nfs4", "srv:/x", address="srv")),
    ],
)
def test_options(options: dict[str, str], wanted: VolumeMount | None) -> None:
    assert volume_mount(options) == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"device": "/srv"},
        {"type": "overlay", "o": "lowerdir=/"},
        {"type": "tmpfs", "o": "size=1m,context=x"},
        {"type": "none", "device": "/srv"},
        {"type": "none", "o": "bind", "device": "srv"},
        {"type": "none", "o": "bind", "device": "/srv/../etc"},
        {"type": "none", "o": "bind,loop", "device": "/srv"},
        {"type": "nfs", "o": "addr=1.2.3.4", "device": "/x"},
        {"type": "nfs", "o": "addr=1.2.3.4;x", "device": ":/x"},
        {"type": "tmpfs", "o": "size=1m," + "," * 5000},
        {"size": "1"},
    ],
)
def test_options_that_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        volume_mount(options)
    assert caught.value.reason == "INVALID_VOLUME_OPTION"


async def test_mounted_for_the_first_and_unmounted_after_the_last(
    volumes: LocalVolumes, tmp_path: Path, told: list[tuple[str, str, str]]
) -> None:
    await volumes.ensure("mem", options=TMPFS, labels={"a": "b"})
    assert volumes.get("mem").labels == {"a": "b"}
    assert not mount_points(tmp_path / "volumes")
    path = await volumes.acquire("mem", "one")
    (path / "f").write_text("x")
    assert await volumes.acquire("mem", "two") == path
    assert await volumes.acquire("mem", "two") == path
    [mounted] = mount_points(tmp_path / "volumes")
    assert (mounted.path, mounted.fstype) == (path, "tmpfs")
    await volumes.release("one")
    assert (path / "f").exists()
    await volumes.release("two")
    await volumes.release("two")
    assert not mount_points(tmp_path / "volumes")
    assert not list(path.iterdir())
    assert [action for action, *_ in told] == ["create", "mount", "mount", "unmount", "unmount"]


async def test_two_at_once_mount_once(volumes: LocalVolumes, tmp_path: Path) -> None:
    await volumes.ensure("mem", options=TMPFS)
    await asyncio.gather(*(volumes.acquire("mem", str(number)) for number in range(8)))
    assert len(mount_points(tmp_path / "volumes")) == 1
    await asyncio.gather(*(volumes.release(str(number)) for number in range(8)))
    assert not mount_points(tmp_path / "volumes")


async def test_a_failed_mount_holds_nothing(volumes: LocalVolumes) -> None:
    await volumes.ensure("lost", options={"type": "none", "o": "bind", "device": "/no/such/place"})
    with pytest.raises(FailedPrecondition) as caught:
        await volumes.acquire("lost", "one")
    assert caught.value.reason == "VOLUME_MOUNT_FAILED"
    assert volumes.holders("lost") == 0
    await volumes.remove("lost")


NFS = {"type": "nfs", "o": "addr=127.0.0.1,vers=4", "device": ":/export"}


@pytest.mark.skipif("nfs" in Path("/proc/filesystems").read_text(), reason="this kernel has an NFS client")
async def test_a_kernel_without_nfs_is_named(volumes: LocalVolumes, tmp_path: Path) -> None:
    await volumes.ensure("share", options=NFS)
    with pytest.raises(FailedPrecondition, match=r"volume share from 127.0.0.1: .*No such device") as caught:
        await volumes.acquire("share", "one")
    assert "modprobe nfs" in (caught.value.hint or "")
    assert volumes.holders("share") == 0
    assert not mount_points(tmp_path / "volumes")


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ECONNREFUSED, "no NFS server answers"),
        (errno.EACCES, "does not export"),
        (errno.ENOENT, "no such export"),
        (errno.EPROTONOSUPPORT, "vers="),
        (errno.EIO, "volume inspect"),
    ],
)
async def test_what_an_nfs_server_refuses_is_told(
    volumes: LocalVolumes, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def refuse(*_: object) -> None:
        with translated("mount nfs on", "/x"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mounting, "mount", refuse)
    await volumes.ensure("share", options=NFS)
    with pytest.raises(FailedPrecondition, match=r"127\.0\.0\.1") as caught:
        await volumes.acquire("share", "one")
    assert hint in (caught.value.hint or "")


async def test_an_unknown_nfs_server_is_named(volumes: LocalVolumes) -> None:
    await volumes.ensure("share", options=NFS | {"o": "addr=nobody.invalid"})
    with pytest.raises(FailedPrecondition, match=r"from nobody\.invalid") as caught:
        await volumes.acquire("share", "one")
    assert "no address of nobody.invalid" in (caught.value.hint or "")
    assert volumes.holders("share") == 0


async def test_the_same_name_with_other_options(volumes: LocalVolumes) -> None:
    await volumes.ensure("mem", options=TMPFS)
    await volumes.ensure("mem", options=TMPFS)
    await volumes.ensure("mem")  # whoever mounts it by its name takes it as it is
    for options, exact in (({"type": "tmpfs"}, False), ({}, True)):
        with pytest.raises(AlreadyExists):
            await volumes.ensure("mem", options=options, exact=exact)


async def test_one_that_is_held_is_not_removed(volumes: LocalVolumes, tmp_path: Path) -> None:
    await volumes.ensure("mem", options=TMPFS)
    await volumes.acquire("mem", "export-1")
    with pytest.raises(FailedPrecondition) as caught:
        await volumes.remove("mem")
    assert caught.value.reason == "VOLUME_IN_USE"
    await volumes.release("export-1")
    await volumes.remove("mem")
    assert not mount_points(tmp_path / "volumes")


async def test_removal_waits_for_a_container_that_is_being_cleared(volumes: LocalVolumes) -> None:
    await volumes.ensure("data")
    await volumes.acquire("data", "c" * 64)  # its row is gone already
    removing = asyncio.create_task(volumes.remove("data"))
    await asyncio.sleep(0.05)
    assert not removing.done()
    await volumes.release("c" * 64)
    await removing
    assert not volumes.list()


async def test_the_next_daemon_ends_mounts_that_nobody_has(md: Metadata, volumes: LocalVolumes, tmp_path: Path) -> None:
    for name in ("used", "stray"):
        await volumes.ensure(name, options=TMPFS)
        await volumes.acquire(name, "c" * 64)
    user = container("user", state=ContainerState.RUNNING)
    mounts = (Mount(MountKind.VOLUME, "/v", "used"),)
    md.containers.insert(replace(user, spec=replace(user.spec, mounts=mounts)))
    later = LocalVolumes(md, tmp_path / "volumes")
    await later.recover()
    assert [point.path.parent.name for point in mount_points(tmp_path / "volumes")] == ["used"]
    await later.acquire("used", "other")
    assert len(mount_points(tmp_path / "volumes")) == 1
    await later.release("other")
    await later.release(user.id)
    assert not mount_points(tmp_path / "volumes")
