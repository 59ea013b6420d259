"""/proc/self/mountinfo as data."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo (proc(5)); later lines of the same path cover earlier ones."""

    mount_id: int
    parent_id: int
    path: Path
    root: str
    options: frozenset[str]
    fstype: str
    source: str
    super_options: frozenset[str]


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def parse_mountinfo(text: bytes) -> list[MountPoint]:
    """The mounts in the order of the kernel's list. Pure; octal escapes (space, tab, newline, backslash) are undone."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(b" ")
        # Optional fields (shared:1 master:2 ...) end at a lone hyphen.
        separator = fields.index(b"-", 6)
        fstype, source, super_options = fields[separator + 1 : separator + 4]
        mounts.append(
            MountPoint(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                root=_unescaped(fields[3]),
                path=Path(_unescaped(fields[4])),
                options=frozenset(fields[5].decode().split(",")),
                fstype=fstype.decode(),
                source=_unescaped(source),
                super_options=frozenset(_unescaped(super_options).split(",")),
            )
        )
    return mounts


def read_mountinfo() -> list[MountPoint]:
    """All mounts that this process sees."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mount_points(prefix: str | os.PathLike[str]) -> list[MountPoint]:
    """The mounts at `prefix` and below it, in the order they were made; the prefix is resolved first (symlinks)."""
    top = Path(os.path.realpath(prefix))
    return [mount for mount in read_mountinfo() if mount.path == top or top in mount.path.parents]
