"""`-v`, `--mount`, `--tmpfs` and `--config`, as docker reads them; and whose files a path means.

`./x`, `../x`, `x/y`, `.`, `~/x` and `local:/x` are paths of this machine: the files are sent, and mounted read-only.
`/x` and `host:/x` are paths of the host. A plain name is a volume of the host.
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shoalctl.flags.empty import EMPTY
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.sizes import parse_size

LOCAL, HOST = "local:", "host:"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")
_IGNORED = frozenset({"z", "Z", "cached", "delegated", "consistent"})
_PROPAGATIONS = frozenset({"rprivate", "private", "rslave", "slave"})
_SHARED = frozenset({"shared", "rshared"})
_TMPFS_OPTION = re.compile(r"exec|suid|dev|(uid|gid)=\d+|nr_inodes=\d+[kKmMgG]?")
_TMPFS_DEFAULTS = frozenset({"noexec", "nosuid", "nodev"})
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_TRUE = {"": True, "true": True, "1": True, "false": False, "0": False}


class MountFlag(NamedTuple):
    """One mount. `kind` is bind, volume (an empty source: anonymous), tmpfs or content: then `local` is the path on
    this machine, and `file_mode` the mode of the one file that it is (0: its own). `size` in bytes, 0: the default."""

    kind: str
    source: str
    target: str
    read_only: bool = False
    size: int = 0
    mode: int = 0
    local: str = ""
    file_mode: int = 0
    propagation: str = ""
    options: tuple[str, ...] = ()
    no_copy: bool = False
    subpath: str = ""
    labels: Mapping[str, str] = EMPTY
    volume_options: Mapping[str, str] = EMPTY


def parse_volume(text: str, *, windows: bool = os.name == "nt") -> MountFlag:
    """`[SOURCE:]TARGET[:OPTIONS]`; on Windows a source may begin with a drive. Raises UsageFault."""
    side, rest = _side(text)
    drive = rest[:2] if windows and _DRIVE.match(rest) else ""
    parts = rest[len(drive) :].split(":")
    parts[0] = drive + parts[0]
    if len(parts) == 1 and not side:
        return MountFlag("volume", "", _target(text, parts[0]))
    if not 2 <= len(parts) <= 3 or not parts[0]:
        raise _invalid(text, "write [SOURCE:]TARGET[:ro]")
    source, target = parts[0], _target(text, parts[1])
    options = [option for option in parts[2].split(",") if option] if len(parts) == 3 else []
    if not side and _NAME.fullmatch(source):
        return MountFlag("volume", source, target, _read_only(options), no_copy=_checked(text, options, "volume"))
    if side == LOCAL or (not side and is_local(source)):
        _checked(text, options, "content")
        return _content(text, source, target, writable="rw" in options)
    if not source.startswith("/"):
        raise _invalid(
            text, f"{source!r} can't be a volume's name: use [a-zA-Z0-9][a-zA-Z0-9_.-]+; a file here is ./{source}"
        )
    _checked(text, options, "bind")
    propagation = next((option for option in options if option in _PROPAGATIONS), "")
    return MountFlag("bind", posixpath.normpath(source), target, _read_only(options), propagation=propagation)


def parse_tmpfs(text: str) -> MountFlag:
    """`TARGET[:size=64m,mode=1777,ro]`. Raises UsageFault."""
    target, _, given = text.partition(":")
    size = mode = 0
    read_only = False
    options = []
    for option in filter(None, given.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            size = parse_size(value)
        elif key == "mode":
            mode = _mode(text, value)
        elif option in {"ro", "rw"}:
            read_only = option == "ro"
        elif _TMPFS_OPTION.fullmatch(option):
            options.append(option)
        elif option not in _TMPFS_DEFAULTS:
            raise _invalid(text, f"unknown option {option!r}; there are size=, mode=, uid=, gid=, exec, ro and others")
    return MountFlag("tmpfs", "", _target(text, target), read_only, size, mode, options=tuple(options))


def parse_mount(text: str) -> MountFlag:
    """`type=bind|volume|tmpfs,src=SOURCE,dst=TARGET,...`, comma-separated with quotes as in CSV. Raises UsageFault."""
    given, labels, options = _fields(text)
    kind = given.pop("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise _invalid(text, f"unknown type {kind!r}; there are bind, volume and tmpfs")
    if "target" not in given:
        raise _invalid(text, "the place in the container is missing: dst=/path")
    target = _target(text, given.pop("target"))
    source = given.pop("source", "")
    read_only = _flag(text, given, "readonly")
    given.pop("consistency", "")
    for key in given:
        if not key.startswith(f"{kind}-"):
            raise _invalid(text, f"unknown key {key!r} for type {kind}")
    if (labels or options) and kind != "volume":
        raise _invalid(text, "volume-label and volume-opt go with type=volume")
    if kind == "tmpfs":
        mount = _tmpfs_mount(text, source, target, read_only, given)
    elif kind == "bind":
        mount = _bind_mount(text, source, target, read_only, given)
    else:
        mount = _volume_mount(text, source, target, read_only, given, labels, options)
    if given:
        raise _invalid(text, f"unknown key {next(iter(given))!r}")
    return mount


def parse_config(text: str) -> MountFlag:
    """`NAME=FILE[,target=/path][,mode=0444]`: a file or directory of this machine. Raises UsageFault."""
    first, *rest = _split(text) or [""]
    name, separator, path = first.partition("=")
    if not separator or not _NAME.fullmatch(name) or not path:
        raise UsageFault(f"invalid config {text!r}: write NAME=FILE[,target=/path][,mode=0444]")
    target, mode = f"/{name}", 0
    for item in rest:
        key, _, value = item.partition("=")
        if key in ("target", "dst"):
            target = value
        elif key == "mode":
            mode = _mode(text, value)
        else:
            raise UsageFault(f"invalid config {text!r}: unknown key {key!r}; there are target and mode")
    return MountFlag("content", "", _target(text, target), True, local=local_path(path), file_mode=mode & 0o777)


def is_local(source: str) -> bool:
    """Whether a source without a prefix is a path of this machine: a relative one, or one in the home directory."""
    return not source.startswith("/") and (source in (".", "..", "~") or "/" in source or "\\" in source)


def local_path(source: str) -> str:
    """The path of this machine, without its prefix and with its home directory."""
    return os.path.expanduser(source.removeprefix(LOCAL))


def _side(text: str) -> tuple[str, str]:
    """The prefix, and what follows. `host:/x` alone is a volume named host at /x."""
    for prefix in (LOCAL, HOST):
        if text.startswith(prefix) and (prefix == LOCAL or text.count(":") >= 2):
            rest = text.removeprefix(prefix)
            if ":" in rest and (prefix == LOCAL or rest.partition(":")[2].startswith("/")):
                return prefix, rest
    return "", text


def _content(text: str, source: str, target: str, *, writable: bool) -> MountFlag:
    if writable:
        raise _invalid(text, "files of this machine are mounted read-only: leave out rw, or copy them into a volume")
    return MountFlag("content", "", target, True, local=local_path(source))


def _bind_mount(text: str, source: str, target: str, read_only: bool, given: dict[str, str]) -> MountFlag:
    propagation = given.pop("bind-propagation", "")
    if propagation and propagation not in _PROPAGATIONS:
        raise _invalid(text, _no_propagation(propagation))
    if source.startswith(LOCAL) or (not source.startswith(HOST) and is_local(source)):
        if propagation:
            raise _invalid(text, "bind-propagation has no use with files of this machine")
        return _content(text, source, target, writable=False)
    source = source.removeprefix(HOST)
    if not source.startswith("/"):
        raise _invalid(text, f"source {source!r} is neither an absolute path on the host nor a file here (./{source})")
    return MountFlag("bind", posixpath.normpath(source), target, read_only, propagation=propagation)


def _tmpfs_mount(text: str, source: str, target: str, read_only: bool, given: dict[str, str]) -> MountFlag:
    if source:
        raise _invalid(text, "a tmpfs has no source")
    size = parse_size(given.pop("tmpfs-size", "0"))
    mode = _mode(text, given.pop("tmpfs-mode", "0"))
    return MountFlag("tmpfs", "", target, read_only, size, mode)


def _volume_mount(
    text: str,
    source: str,
    target: str,
    read_only: bool,
    given: dict[str, str],
    labels: dict[str, str],
    options: dict[str, str],
) -> MountFlag:
    if source and not _NAME.fullmatch(source):
        raise _invalid(text, f"{source!r} can't be a volume's name: use [a-zA-Z0-9][a-zA-Z0-9_.-]+, or type=bind")
    if given.pop("volume-driver", "local") != "local":
        raise _invalid(text, "there is only the driver local")
    no_copy = _flag(text, given, "volume-nocopy")
    subpath = given.pop("volume-subpath", "")
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise _invalid(text, f"volume-subpath {subpath!r} is not a relative path inside the volume")
    return MountFlag(
        "volume",
        source,
        target,
        read_only,
        no_copy=no_copy,
        subpath=subpath,
        labels=labels,
        volume_options=options,
    )


def _fields(text: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """All keys but those that may come several times: labels, and driver options."""
    given: dict[str, str] = {}
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    for item in _split(text):
        key, separator, value = item.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if key in ("volume-label", "volume-opt"):
            name, _, content = value.partition("=")
            if not name:
                raise _invalid(text, f"{key} needs a name: {key}=KEY=VALUE")
            (labels if key == "volume-label" else options)[name] = content
        elif key in given:
            raise _invalid(text, f"{key!r} is there twice")
        elif not separator and key not in ("readonly", "volume-nocopy"):
            raise _invalid(text, f"{item!r} is not key=value")
        else:
            given[key] = value
    return given, labels, options


def _split(text: str) -> list[str]:
    try:
        rows: Iterator[list[str]] = iter(csv.reader([text], strict=True))
        return next(rows, [])
    except csv.Error as error:
        raise _invalid(text, str(error)) from error


def _flag(text: str, given: dict[str, str], key: str) -> bool:
    value = given.pop(key, "false").lower()
    if value not in _TRUE:
        raise _invalid(text, f"{key} is true or false")
    return _TRUE[value]


def _target(text: str, target: str) -> str:
    if not target.startswith("/"):
        raise _invalid(text, f"the place in the container, {target!r}, must be an absolute path")
    clean = posixpath.normpath(target)
    if clean.strip("/") == "":
        raise _invalid(text, "the container's root can't be mounted over")
    return "/" + clean.lstrip("/")


def _read_only(options: list[str]) -> bool:
    return "ro" in options


def _checked(text: str, options: list[str], kind: str) -> bool:
    """Whether `nocopy` is among the options; refuses those that the kind does not know."""
    for option in options:
        known = option in {"ro", "rw"} or option in _IGNORED
        known = known or (kind != "content" and option == "nocopy")
        if option in _SHARED:
            raise _invalid(text, _no_propagation(option))
        if not known and not (kind == "bind" and option in _PROPAGATIONS):
            raise _invalid(text, f"unknown option {option!r}; there are ro and rw")
    if "ro" in options and "rw" in options:
        raise _invalid(text, "ro and rw contradict each other")
    return "nocopy" in options


def _no_propagation(value: str) -> str:
    return f"propagation {value!r} is not possible: there are rprivate, private, rslave and slave"


def _mode(text: str, value: str) -> int:
    if not re.fullmatch("[0-7]{1,5}", value) or int(value, 8) > 0o7777:
        raise _invalid(text, f"mode {value!r} is not octal")
    return int(value, 8)


def _invalid(text: str, why: str) -> UsageFault:
    return UsageFault(f"invalid mount {text!r}: {why}")
