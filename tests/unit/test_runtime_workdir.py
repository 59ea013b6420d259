"""Working directories that lead to open files, through links of the image and of mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidArgument
from shoald.runtime.rootfs import steps
from shoald.runtime.workdir import check_working_dir


def _check(root: Path, cwd: str, mounts: dict[str, str] | None = None) -> None:
    binds = [{"destination": target, "source": source, "type": "bind"} for target, source in (mounts or {}).items()]
    config: dict[str, Any] = {
        "process": {"cwd": cwd},
        "mounts": [{"destination": "/proc", "source": "proc", "type": "proc"}, *binds],
    }
    check_working_dir(root, config)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").symlink_to("../b/two")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/two").symlink_to("/proc/self/fd/7")
    (tmp_path / "good").symlink_to("a")
    (tmp_path / "up").symlink_to("../../../../a")
    _check(tmp_path, "/good/new")
    _check(tmp_path, "/up/new/deep")
    _check(tmp_path, "/")
    for cwd in ("/a/one", "/good/one", "/b/two/../../../../../../etc", "/up/one/", "/b/../a/./one", "/proc/1/root"):
        with pytest.raises(InvalidArgument) as caught:
            _check(tmp_path, cwd)
        assert caught.value.reason == "INVALID_WORKDIR"
    with pytest.raises(InvalidArgument):
        _check(tmp_path, "relative")


def test_links_in_mounts_are_followed(tmp_path: Path) -> None:
    volume, root = tmp_path / "volume", tmp_path / "root"
    volume.mkdir()
    (root / "data").mkdir(parents=True)
    (volume / "way").symlink_to("/proc/self/fd/9")
    (root / "shadowed").symlink_to("/proc/self/fd/9")
    with pytest.raises(InvalidArgument):
        _check(root, "/data/way", {"/data": str(volume)})
    _check(root, "/data/way")
    _check(root, "/shadowed", {"/shadowed": str(volume)})


def test_an_images_own_proc_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "proc").symlink_to("/a")
    with pytest.raises(InvalidArgument):
        _check(tmp_path, "/proc/self/fd/3")


def test_loops_end(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidArgument) as caught:
        list(steps(tmp_path, "/loop/x", {}))
    assert caught.value.reason == "TOO_MANY_LINKS"


def test_the_host_is_never_looked_at(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/out").symlink_to("/" + "/".join(tmp_path.parts[1:]) + "/secret")
    (tmp_path / "secret").symlink_to("/proc/self/fd/5")
    assert list(steps(tmp_path / "root", "/out", {}))[-1] == str(tmp_path / "secret")
