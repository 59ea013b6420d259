"""Filling a fresh volume with what the image has at its mount point, as Docker does."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import ShoalError
from shoald.containers.volumetar import merged
from shoald.host import process
from shoald.host.blocking import in_thread, to_end
from shoald.host.syscall import RESOLVE_IN_ROOT, failure, openat2, translated
from shoald.host.trees import remove_tree
from shoald.model.container import Container
from shoald.snapshots.ports import Snapshotter


async def populate_from_image(
    snapshots: Snapshotter, container: Container, path: str, directory: Path, in_place: bool
) -> None:
    """Fill it from the container's image; see `populate_volume`."""
    parent = snapshots.chain(container.snapshot_id)[0].parent_id
    if parent is not None:
        await populate_volume(snapshots, parent, path, directory, in_place=in_place)


async def populate_volume(
    snapshots: Snapshotter, snapshot_id: str, path: str, directory: Path, *, in_place: bool = False
) -> None:
    """Fill the empty `directory` with the directory `path` of the image below `snapshot_id`, with ids as the image
    means them, which is how volumes keep them. A path that the image does not have, or that is no directory, leaves it
    empty.

    All or nothing: it is filled beside its place and then renamed. `in_place` is for a directory that is mounted, or in
    use by others: it is filled as it is. One call a directory at a time.
    """
    async with snapshots.mounted(snapshot_id, uid_base=0) as root:
        source = _open_in(root, path)
        if source is None:
            return
        try:
            if in_place:
                await merged(f"/proc/self/fd/{source}", directory)
            else:
                await _fill(source, directory)
        finally:
            os.close(source)


async def _fill(source: int, directory: Path) -> None:
    staging = directory.with_name("filling")
    if staging.exists():
        await in_thread(lambda: remove_tree(staging))
    with translated("fill volume"):
        staging.mkdir(mode=0o700)
    try:
        # By descriptor: the image's own symbolic links were resolved inside of it and are not followed again.
        argv = ["cp", "-a", "--reflink=auto", f"/proc/self/fd/{source}/.", str(staging)]
        copied = await process.run(argv, pass_fds=[source], check=False)
        if copied.returncode != 0:
            raise _not_copied(argv, copied)
        with translated("fill volume"):
            staging.rename(directory)
    except BaseException:
        await to_end(in_thread(lambda: remove_tree(staging)))
        raise


def _not_copied(argv: Sequence[str], copied: process.Completed) -> ShoalError:
    if os.strerror(errno.ENOSPC).encode() in copied.stderr:
        return failure("fill volume", errno.ENOSPC)
    return process.program_failed(argv, copied.returncode, copied.stderr)


def _open_in(root: Path, path: str) -> int | None:
    """The directory `path` below `root`, whose links lead nowhere else; None when there is none."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(
            top, path.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT
        )
    except OSError:
        return None
    finally:
        os.close(top)
