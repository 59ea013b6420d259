"""Links in an image that would move mounts over the kernel's file systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidArgument
from shoald.runtime.targets import check_mount_targets


def _check(root: Path, *binds: tuple[str, Path]) -> None:
    kernel = [{"destination": f"/{name}", "source": name, "type": name} for name in ("proc", "dev", "sys", "dev/shm")]
    config: dict[str, Any] = {
        "mounts": [*kernel, *({"destination": at, "source": str(source), "type": "bind"} for at, source in binds)]
    }
    check_mount_targets(root, config)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root/dev", "root/proc", "root/sys", "root/etc", "root/run", "volume"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "root"


def test_ordinary_targets_and_links_within_the_image_are_fine(root: Path) -> None:
    (root / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    (root / "dev/shm").symlink_to("/proc")  # never seen: a new file system covers /dev
    _check(root, ("/etc/resolv.conf", root), ("/mnt/new", root), ("/dev/init", root), ("/sys/fs/cgroup", root))


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("to", ["/", "etc", "/proc", "../../sys", "missing"])
def test_the_kernels_file_systems_are_no_links(root: Path, name: str, to: str) -> None:
    (root / name).rmdir()
    (root / name).symlink_to(to)
    with pytest.raises(InvalidArgument) as caught:
        _check(root)
    assert caught.value.reason in ("MOUNT_REDIRECTED", "TOO_MANY_LINKS")


@pytest.mark.parametrize("to", ["/proc/sys/kernel/core_pattern", "../../../proc/self/environ", "/dev/null", "/hop"])
def test_other_targets_do_not_lead_into_them(root: Path, to: str) -> None:
    (root / "hop").symlink_to("sys/kernel")
    (root / "etc/hosts").symlink_to(to)
    with pytest.raises(InvalidArgument, match="/etc/hosts leads to"):
        _check(root, ("/etc/hosts", root))


def test_links_in_a_volume_count_too(root: Path) -> None:
    volume = root.parent / "volume"
    (volume / "evil").symlink_to("/proc")
    with pytest.raises(InvalidArgument, match="/mnt/evil/sys leads to /proc/sys"):
        _check(root, ("/mnt", volume), ("/mnt/evil/sys", root))
