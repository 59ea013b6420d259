"""What is at a path of a container."""

from __future__ import annotations

from msgspec import Struct


class PathStat(Struct, frozen=True):
    """As lstat(2) inside the container. `name` is the path's last component ("." where it names a directory itself),
    `link` where a symbolic link leads inside the container, else ""."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link: str
    uid: int
    gid: int
