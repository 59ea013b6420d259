"""Filling a fresh volume with what the image has at its mount point, as Docker does."""

from __future__ import annotations

import os
from pathlib import Path

from shoald.host import process
from shoald.host.syscall import RESOLVE_IN_ROOT, openat2
from shoald.snapshots.ports import Snapshotter


async def populate_volume(snapshots: Snapshotter, snapshot_id: str, path: str, directory: Path) -> None:
    """Copy the directory `path` of the image below `snapshot_id` into the empty `directory`, with ids as the image means
    them, which is how volumes keep them. A path that the image does not have, or that is no directory, leaves it empty."""
    async with snapshots.mounted(snapshot_id, uid_base=0) as root:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            source = openat2(
                top, path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT
            )
        except OSError:
            return
        finally:
            os.close(top)
        try:
            # By descriptor: the image's own symbolic links were resolved inside of it and are not followed again.
            argv = ["cp", "-a", "--reflink=auto", f"/proc/self/fd/{source}/.", str(directory)]
            await process.run(argv, pass_fds=[source])
        finally:
            os.close(source)
