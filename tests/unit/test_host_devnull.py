"""/dev/null is given back to root, and nothing else is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shoald.host.devnull import restore_null

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make devices")


@pytest.mark.root
@needs_root
def test_a_changed_null_is_restored_once(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no CAP_MKNOD")
    os.chown(null, 70000, 70001)
    os.chmod(null, 0)
    assert restore_null(str(null))
    found = null.lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o666)
    assert not restore_null(str(null))


@pytest.mark.root
@needs_root
def test_what_is_no_null_device_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("")
    os.chown(target, 70000, 70001)
    link = tmp_path / "link"
    link.symlink_to(target)
    for path in (target, link):
        assert not restore_null(str(path))
    assert target.lstat().st_uid == 70000
