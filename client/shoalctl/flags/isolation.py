"""Flags of isolation and limits in docker's notation: devices, ulimits, security options, key=value pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shoalctl.flags.environment import file_lines, labels
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.sizes import parse_size

MAX_PROFILE = 120 * 1024
"""Bytes of a seccomp profile without its blanks: a field of a request holds no more."""

_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_CDI = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*/[a-zA-Z0-9][a-zA-Z0-9_.-]*=[a-zA-Z0-9][a-zA-Z0-9_.:-]*")
_ULIMIT = re.compile(r"([a-z]+)=(-1|\d{1,18})(?::(-1|\d{1,18}))?")
_GPUS = "nvidia.com/gpu"
_MAX_LABELS = 1 << 20


class DeviceFlag(NamedTuple):
    """`--device`; an empty `inside` is the same path."""

    path: str
    inside: str = ""
    permissions: str = "rwm"


class UlimitFlag(NamedTuple):
    """`--ulimit`; -1: no limit."""

    name: str
    soft: int
    hard: int


def is_cdi(text: str) -> bool:
    """Whether a `--device` names a CDI device (`vendor.com/class=name`) and no path."""
    return _CDI.fullmatch(text) is not None


def parse_device(text: str) -> DeviceFlag:
    """`PATH[:INSIDE][:rwm]`. Raises UsageFault."""
    parts = text.split(":")
    path, inside, permissions = parts[0], "", "rwm"
    if len(parts) == 2 and _PERMISSIONS.fullmatch(parts[1]):
        permissions = parts[1]
    elif len(parts) in (2, 3):
        inside = parts[1]
        permissions = parts[2] if len(parts) == 3 else permissions
    if len(parts) > 3 or not path.startswith("/") or (inside and not inside.startswith("/")):
        raise UsageFault(
            f"invalid device {text!r}", hint="write /dev/name[:/dev/inside][:rwm], or vendor.com/class=name for CDI"
        )
    if not _PERMISSIONS.fullmatch(permissions):
        raise UsageFault(f"invalid device permissions {permissions!r}", hint="of r, w and m")
    return DeviceFlag(path, inside, permissions)


def parse_ulimit(text: str) -> UlimitFlag:
    """`NAME=SOFT[:HARD]`. Raises UsageFault."""
    found = _ULIMIT.fullmatch(text.replace("unlimited", "-1"))
    if found is None:
        raise UsageFault(f"invalid ulimit {text!r}", hint="write NAME=SOFT[:HARD], for example nofile=1024:4096")
    soft = int(found[2])
    return UlimitFlag(found[1], soft, soft if found[3] is None else int(found[3]))


def parse_rate(flag: str, text: str, *, size: bool) -> tuple[str, int]:
    """`PATH:RATE`, the rate as a size or as a number. Raises UsageFault."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/") or (not size and not rate.isdecimal()):
        raise UsageFault(f"{flag}: invalid limit {text!r}", hint="write /dev/name:RATE")
    number = parse_size(rate) if size else int(rate)
    if not 0 < number < 2**63:
        raise UsageFault(f"{flag}: invalid rate {rate!r}")
    return path, number


def parse_pairs(flag: str, entries: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` for each entry, the last of a key wins. Raises UsageFault."""
    found: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise UsageFault(f"{flag}: invalid entry {entry!r}", hint="write KEY=VALUE")
        found[key] = value
    return found


def parse_gpus(text: str) -> list[str]:
    """`all`, a number, or `device=ID,...` as CDI names of NVIDIA's. Raises UsageFault."""
    body = text.strip().strip('"').removeprefix("count=")
    if body == "all" or body == "-1":
        return [f"{_GPUS}=all"]
    if re.fullmatch(r"[1-9]\d?", body):
        return [f"{_GPUS}={number}" for number in range(int(body))]
    devices = body.removeprefix("device=")
    if body.startswith("device=") and re.fullmatch(r"[a-zA-Z0-9_.:,-]+", devices):
        return [f"{_GPUS}={device}" for device in devices.split(",") if device]
    raise UsageFault(
        f"invalid --gpus {text!r}",
        hint="all, a number or device=0,1; capabilities are what the host's CDI says; other vendors by --device",
    )


def security_option(text: str) -> str:
    """The option; `seccomp=FILE` with the file's content, as docker does. Raises UsageFault."""
    name, separator, value = text.partition("=")
    if not separator:
        name, _, value = text.partition(":")
    if name != "seccomp":
        return text
    return f"seccomp={value if value in ('unconfined', 'builtin') else _profile(value)}"


def _profile(file: str) -> str:
    import json

    try:
        document = json.loads(_read("--security-opt seccomp", file, MAX_PROFILE * 10))
    except ValueError as error:
        raise UsageFault(f"the seccomp profile {file} is not JSON: {error}") from None
    text = json.dumps(document, separators=(",", ":"))
    if len(text) > MAX_PROFILE:
        raise UsageFault(f"the seccomp profile {file} has more than {MAX_PROFILE} bytes")
    return text


def label_files(files: Iterable[str]) -> dict[str, str]:
    """Labels of files with a `key=value` on each line; blank lines and `# comments` are passed over."""
    found: dict[str, str] = {}
    for file in files:
        lines = file_lines(_read("--label-file", file, _MAX_LABELS))
        found |= labels(line for line in map(str.strip, lines) if line and not line.startswith("#"))
    return found


def _read(flag: str, file: str, limit: int) -> str:
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise UsageFault(f"{flag}: can't read {file}: {error.strerror}") from error
    if len(data) > limit:
        raise UsageFault(f"{flag}: {file} has more than {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageFault(f"{flag}: {file} is not UTF-8") from None
