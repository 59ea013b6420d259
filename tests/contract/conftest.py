"""Fixtures of the contract suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoald.host import mounts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB and 64 inodes of its own (root only)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=1m,nr_inodes=64,mode=0700")
    try:
        yield disk
    finally:
        mounts.unmount_tree(disk, detach=True)
