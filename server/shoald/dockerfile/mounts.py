"""`RUN --mount=...`: its CSV of options, checked as BuildKit checks it.

https://docs.docker.com/reference/dockerfile/#run---mount
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from shoald.dockerfile.errors import did_you_mean
from shoald.dockerfile.gotext import parse_bool, parse_size, parse_unsigned, quote

_T = TypeVar("_T")

TYPES = frozenset({"bind", "cache", "tmpfs", "secret", "ssh"})
SHARING = frozenset({"shared", "private", "locked"})
_KEYS = frozenset(
    {"type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw"}
    | {"id", "sharing", "required", "mode", "uid", "gid", "size", "env"}
)
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount as written and expanded; None and "" are not given. Sizes in bytes."""

    type: str = "bind"
    source: str = ""
    target: str = ""
    from_: str = ""
    read_only: bool | None = None
    id: str = ""
    sharing: str = ""
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


def check_mount(text: str) -> None:
    """What can be said before expansion: the CSV is well formed and `from` holds no variable. Raises ValueError."""
    mount_source(text)


def mount_source(text: str) -> str:
    """The `from` of a mount, which decides what the step depends on; "" is the build context or none."""
    origin = ""
    for field in _fields(text):
        key, _, value = field.partition("=")
        if key.lower() == "from":
            if re.search(r"\$.", value):
                raise ValueError("'from' doesn't support variable expansion, define alias stage instead")
            origin = value
    return origin


def parse_mount(text: str, expand: Callable[[str], str]) -> MountOptions:
    """Read one mount. Raises ValueError with BuildKit's message, and what `expand` raises."""
    options = MountOptions()
    for field in _fields(text):
        key, assigned, value = field.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        options = _assign(options, key, expand(value), field) if assigned else _switch(options, key, field)
    return _validated(options)


def _fields(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as e:
        raise ValueError(f"failed to parse csv mounts: {e}") from None
    if len(rows) != 1:
        raise ValueError("failed to parse csv mounts: no options")
    return rows[0]


def _switch(options: MountOptions, key: str, field: str) -> MountOptions:
    match key:
        case "readonly":
            return replace(options, read_only=True)
        case "readwrite":
            return replace(options, read_only=False)
        case "required":
            return replace(options, required=_only(options, key, "secret", "ssh"))
        case _:
            raise ValueError(f"invalid field '{field[:200]}' must be a key=value pair")


def _only(options: MountOptions, key: str, *types: str) -> bool:
    if options.type not in types:
        raise ValueError(f"unexpected key '{key}' for mount type '{options.type}'")
    return True


def _assign(options: MountOptions, key: str, value: str, field: str) -> MountOptions:
    match key:
        case "type":
            return replace(options, type=_one_of(value, TYPES, "unsupported mount type"))
        case "sharing":
            return replace(options, sharing=_one_of(value, SHARING, "unsupported sharing value"))
        case "from":
            return replace(options, from_=value)
        case "source":
            return replace(options, source=value)
        case "target":
            return replace(options, target=value)
        case "id":
            return replace(options, id=value)
        case "env":
            _only(options, key, "secret")
            return replace(options, env=value)
        case "readonly" | "readwrite":
            return replace(options, read_only=_checked(parse_bool, key, value) == (key == "readonly"))
        case "required":
            _only(options, key, "secret", "ssh")
            return replace(options, required=_checked(parse_bool, key, value))
        case "size":
            _only(options, key, "tmpfs")
            return replace(options, size=_checked(parse_size, key, value))
        case "mode":
            return replace(options, mode=_checked(lambda v: parse_unsigned(v, base=8), key, value))
        case "uid":
            return replace(options, uid=_checked(parse_unsigned, key, value))
        case "gid":
            return replace(options, gid=_checked(parse_unsigned, key, value))
        case _:
            raise ValueError(f"unexpected key '{key[:200]}' in '{field[:200]}'{did_you_mean(key, _KEYS)}")


def _one_of(value: str, allowed: frozenset[str], problem: str) -> str:
    if value.lower() not in allowed:
        raise ValueError(f"{problem} {quote(value[:200])}{did_you_mean(value, allowed)}")
    return value.lower()


def _checked(parse: Callable[[str], _T], key: str, value: str) -> _T:
    try:
        return parse(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value[:200]}") from None


def _validated(options: MountOptions) -> MountOptions:
    kind = options.type
    if kind in {"bind", "tmpfs"}:
        for key, value in (("mode", options.mode), ("uid", options.uid), ("gid", options.gid)):
            if value is not None:
                raise ValueError(f"{key} not allowed for {quote(kind)} type mounts")
    if kind == "secret":
        if options.from_:
            raise ValueError("secret mount should not have a from")
        if options.sharing:
            raise ValueError("secret mount should not define sharing")
        if not (options.source or options.target or options.id):
            raise ValueError("invalid secret mount. one of source, target required")
        if options.source and options.id:
            raise ValueError("both source and id can't be set")
    if options.sharing and kind != "cache":
        raise ValueError(f"invalid cache sharing set for {kind} mount")
    if options.read_only is None:
        return replace(options, read_only=kind not in {"cache", "tmpfs"})
    return options
