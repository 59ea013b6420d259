"""Where secrets of clients are kept: in memory, then on a tmpfs of root's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from shoald.files.vault import MAX_SECRET_BYTES, SecretVault
from shoald.host.mounts import mount_points, unmount_tree

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ID = "c" * 64


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[SecretVault]:
    made = SecretVault(tmp_path / "secrets")
    await made.prepare([])
    yield made
    made.close()
    unmount_tree(tmp_path, detach=True)


async def test_a_value_is_taken_once_and_delivered_to_its_owner(vault: SecretVault, tmp_path: Path) -> None:
    handle = vault.hold(b"planted", 0)
    assert "planted" not in repr(vault.__dict__)
    assert not list((tmp_path / "secrets").iterdir()), "in memory until a container takes it"
    await vault.claim(handle, ID, 3)
    path = vault.deliver(ID, 3, 100_007, 100_008)
    found = path.stat()
    assert path.read_bytes() == b"planted"
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (100_007, 100_008, 0o400)
    [mounted] = mount_points(tmp_path / "secrets")
    assert mounted.fstype == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} <= mounted.options
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    with pytest.raises(FailedPrecondition) as caught:
        await vault.claim(handle, "d" * 64, 0)
    assert caught.value.reason == "SECRET_MISSING"
    await vault.forget(ID)
    await vault.forget(ID)
    with pytest.raises(FailedPrecondition) as caught:
        vault.deliver(ID, 3, 0, 0)
    assert caught.value.reason == "SECRET_LOST"


async def test_bounds(vault: SecretVault) -> None:
    with pytest.raises(InvalidArgument):
        vault.hold(bytes(MAX_SECRET_BYTES + 1), 0)
    with pytest.raises(InvalidArgument):
        vault.hold(b"", 0o4400)
    for _ in range(128):
        vault.hold(bytes(MAX_SECRET_BYTES), 0)
    with pytest.raises(ResourceExhausted):
        vault.hold(b"x", 0)


async def test_the_next_daemon_keeps_those_of_containers_that_are(vault: SecretVault, tmp_path: Path) -> None:
    await vault.give(ID, 0, b"kept", 0o440)
    await vault.give("e" * 64, 0, b"stray", 0)
    later = SecretVault(tmp_path / "secrets")
    await later.prepare([ID])
    assert later.deliver(ID, 0, 1, 1).read_bytes() == b"kept"
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == [ID]
    assert len(mount_points(tmp_path / "secrets")) == 1
