"""Reading in an image's root file system touches regular files alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asyncinotify import Inotify, Mask

from shoald.runtime.rootfs import read_file


@pytest.mark.parametrize("through_link", [False, True])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, through_link: bool) -> None:
    """To open a device can start a watchdog or rewind a tape; a pipe stands for one here."""
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "pipe")
    name = "etc/passwd" if through_link else "pipe"
    (tmp_path / "etc/passwd").symlink_to("/pipe")
    (tmp_path / "file").write_text("content")
    with Inotify(sync_timeout=0.05) as inotify:
        inotify.add_watch(tmp_path / "pipe", Mask.OPEN)
        inotify.add_watch(tmp_path / "file", Mask.OPEN)
        assert read_file(tmp_path, name, limit=100) is None
        assert inotify.sync_get() is None
        assert read_file(tmp_path, "file", limit=100) == b"content"
        assert inotify.sync_get() is not None
