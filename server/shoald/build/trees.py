"""Scanning and copying of trees by the programs shoald.host.treescan and treecopy."""

from __future__ import annotations

import json
import os
import posixpath
import stat
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shoal.errors import Internal, InvalidArgument
from shoald.build.selection import CopyItem, Tree, TreeEntry, links_to_scan, scan_paths
from shoald.dockerfile.steps import CopyStep
from shoald.host import process
from shoald.host.syscall import failure
from shoald.host.treescan import open_inside

MAX_ANSWER = 512 << 20


async def scan(root: Path, paths: Sequence[str], *, want_hash: bool = True) -> Tree:
    """Entries of `paths` inside `root` and all below them, with content hashes."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answer = await _program("treescan", [fd], {"paths": list(paths), "hash": want_hash})
    finally:
        os.close(fd)
    return Tree([TreeEntry(*fields) for fields in answer["entries"]], answer["roots"])


async def scan_sources(root: Path, step: CopyStep) -> Tree:
    """All that `select` needs to know of `root` for the sources of a step."""
    tree = await scan(root, scan_paths(step))
    links = links_to_scan(step, tree)
    return tree.united(await scan(root, links)) if links else tree


async def copy(
    source: Path | None,
    target: Path,
    items: Sequence[CopyItem],
    owner: tuple[int, int] | None,
    linkable: Collection[int] = (),
    *,
    keep_times: bool = False,
) -> list[Link]:
    """Make `items` below `target`; `source` may be None when all of them carry data. New parents belong to `owner`.

    Those of `linkable` (by number) that are new files are left out: what to give to `link` is returned. `keep_times`:
    directories that are there keep their times.
    Raises InvalidArgument (COPY_FAILED), and as `shoald.host.syscall.failure` (ResourceExhausted DISK_FULL...).
    """
    fds = [os.open(source or target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        fds.append(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        rows = [
            [
                i.source,
                i.target,
                i.kind,
                i.mode,
                i.uid,
                i.gid,
                i.mtime_ns,
                i.content,
                i.xattrs,
                i.inode,
                i.data,
                i.keep_existing,
                number in linkable,
            ]
            for number, i in enumerate(items)
        ]
        request = {"items": rows, "owner": owner, "parent_owner": owner or (0, 0), "keep_times": keep_times}
        answer = await _program("treecopy", fds, request)
    finally:
        for fd in fds:
            os.close(fd)
    if answer["errno"]:
        raise failure("copy to", answer["errno"], path=answer["path"])
    if answer["error"]:
        raise InvalidArgument(answer["error"], reason="COPY_FAILED")
    return [Link(items[number], owner, parent, name) for number, parent, name in answer["links"]]


class Link(NamedTuple):
    """A file that was left out: its item, the owner that it gets, and its place in the layer."""

    item: CopyItem
    owner: tuple[int, int] | None
    parent: str
    name: str


async def link(layer: Path, sources: Sequence[Path], below: Sequence[Path], links: Sequence[Link]) -> list[CopyItem]:
    """Give files of `sources` (directories of layers, the topmost first) their names in `layer`, which is not mounted
    and is over the layers `below`.

    Those that can't be had this way are returned, to be copied.
    """
    fds: list[int] = []
    try:
        for path in (layer, *sources, *below):
            fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        rows = []
        for item, owner, parent, name in links:
            uid, gid = owner or (item.uid, item.gid)
            rows.append([item.source, parent, name, item.mode, uid, gid, item.mtime_ns])
        answer = await _program("treelink", fds, {"sources": len(sources), "items": rows})
    finally:
        for fd in fds:
            os.close(fd)
    return [links[number].item for number in answer["failed"]]


async def _program(name: str, fds: Sequence[int], request: dict[str, Any]) -> Any:
    argv = [sys.executable, "-I", "-m", f"shoald.host.{name}", *map(str, fds)]
    body = json.dumps(request, separators=(",", ":")).encode()
    completed = await process.run(argv, input=body, pass_fds=fds, max_output=MAX_ANSWER)
    try:
        return json.loads(completed.stdout)
    except ValueError as error:
        raise Internal(f"{name} gave no answer", reason="PROGRAM_FAILED") from error


def is_directory(root: Path, path: str) -> bool:
    """Whether `path` is a directory inside `root`, symbolic links followed there."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_inside(fd, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def resolve(root: Path, path: str) -> Path | None:
    """The host path of `path` inside `root`, symbolic links followed there; None when it does not exist."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_inside(fd, path, os.O_PATH)
    except OSError:
        return None
    finally:
        os.close(fd)
    try:
        return Path(os.readlink(f"/proc/self/fd/{found}"))
    finally:
        os.close(found)


def final_target(root: Path, path: str) -> str:
    """Where a file written to `path` inside `root` goes: a symbolic link there is followed, also to what does not
    exist.

    Raises InvalidArgument (COPY_FAILED) for links in a circle.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(40):
            try:
                fd = open_inside(top, path, os.O_PATH | os.O_NOFOLLOW)
            except OSError:
                return path
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    return path
                link = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            path = posixpath.join(posixpath.dirname(path), link)
    finally:
        os.close(top)
    raise InvalidArgument(f"too many levels of symbolic links: {path}", reason="COPY_FAILED")
