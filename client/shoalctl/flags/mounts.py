"""`-v` and `--tmpfs`, as docker reads them."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from shoalctl.flags.fault import UsageFault
from shoalctl.flags.sizes import parse_size

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_IGNORED = frozenset({"z", "Z", "rprivate", "private", "nocopy", "cached", "delegated", "consistent"})


@dataclass(frozen=True, slots=True)
class MountFlag:
    """One mount. `kind` is bind, volume (an empty source: anonymous) or tmpfs; `size` in bytes, 0 for the default."""

    kind: str
    source: str
    target: str
    read_only: bool = False
    size: int = 0
    mode: int = 0


def parse_volume(text: str) -> MountFlag:
    """`[SOURCE:]TARGET[:ro|rw]`: the source is an absolute path on the host or a volume's name. Raises UsageFault."""
    parts = text.split(":")
    if len(parts) == 1:
        return MountFlag("volume", "", _target(text, parts[0]))
    if len(parts) > 3 or not parts[0]:
        raise _invalid(text, "write [SOURCE:]TARGET[:ro]")
    source, target = parts[0], _target(text, parts[1])
    read_only = _read_only(text, parts[2]) if len(parts) == 3 else False
    if source.startswith("/"):
        return MountFlag("bind", posixpath.normpath(source), target, read_only)
    if source.startswith((".", "~")) or "/" in source or "\\" in source:
        raise _invalid(
            text,
            f"{source!r} is a path of this machine; a source is an absolute path on the host, or a volume's name",
        )
    if not _NAME.fullmatch(source):
        raise _invalid(text, f"{source!r} can't be a volume's name: use [a-zA-Z0-9][a-zA-Z0-9_.-]+")
    return MountFlag("volume", source, target, read_only)


def parse_tmpfs(text: str) -> MountFlag:
    """`TARGET[:size=64m,mode=1777,ro]`. Raises UsageFault."""
    target, _, options = text.partition(":")
    size = mode = 0
    read_only = False
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            size = parse_size(value)
        elif key == "mode":
            mode = _mode(text, value)
        elif option in {"ro", "rw"}:
            read_only = option == "ro"
        elif option not in {"noexec", "nosuid", "nodev"}:
            raise _invalid(text, f"unknown option {option!r}; there are size=, mode=, ro and rw")
    return MountFlag("tmpfs", "", _target(text, target), read_only, size, mode)


def _target(text: str, target: str) -> str:
    if not target.startswith("/"):
        raise _invalid(text, f"the place in the container, {target!r}, must be an absolute path")
    clean = posixpath.normpath(target)
    if clean.strip("/") == "":
        raise _invalid(text, "the container's root can't be mounted over")
    return "/" + clean.lstrip("/")


def _read_only(text: str, options: str) -> bool:
    read_only = False
    for option in filter(None, options.split(",")):
        if option in {"ro", "rw"}:
            read_only = option == "ro"
        elif option not in _IGNORED:
            raise _invalid(text, f"unknown option {option!r}; there are ro and rw")
    return read_only


def _mode(text: str, value: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", value):
        raise _invalid(text, f"mode {value!r} is not octal")
    return int(value, 8)


def _invalid(text: str, why: str) -> UsageFault:
    return UsageFault(f"invalid mount {text!r}: {why}")
