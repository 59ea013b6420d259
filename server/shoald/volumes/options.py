"""Options of the `local` driver: "type", "device" and "o", as mount(8) and `docker volume create -o` take them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from shoal.errors import InvalidArgument
from shoald.host.mounts import MountFlags

_KEYS = ("type", "device", "o")
_FLAGS = {
    "ro": MountFlags.READ_ONLY,
    "nosuid": MountFlags.NOSUID,
    "nodev": MountFlags.NODEV,
    "noexec": MountFlags.NOEXEC,
}
_WITHOUT = frozenset({"rw", "suid", "dev", "exec", "defaults"})
_TMPFS = {
    "size": re.compile(r"\d+(%|[kKmMgG])?"),
    "mode": re.compile(r"[0-7]{1,4}"),
    "uid": re.compile(r"\d{1,9}"),
    "gid": re.compile(r"\d{1,9}"),
    "nr_inodes": re.compile(r"\d+[kKmMgG]?"),
    "nr_blocks": re.compile(r"\d+[kKmMgG]?"),
    "huge": re.compile(r"never|always|within_size|advise"),
}
_NFS_OPTION = re.compile(r"[a-z_]+[a-z0-9_]*(=[A-Za-z0-9_.:/%\[\]-]+)?")
_NFS = ("nfs", "nfs4")
_MAX_OPTIONS = 4000
"""Bytes: mount(2) takes a page."""


class VolumeMount(Struct, frozen=True):
    """What is mounted for a volume with options."""

    fstype: str
    """tmpfs, bind, nfs or nfs4."""
    source: str = ""
    flags: MountFlags = MountFlags.NONE
    data: str = ""
    """For mount(2), without the address of an NFS server."""
    recursive: bool = False
    address: str = ""
    """Of an NFS server: a name or a number."""


def volume_mount(options: Mapping[str, str]) -> VolumeMount | None:
    """What the options ask for; None without options: a plain directory. Raises InvalidArgument
    (INVALID_VOLUME_OPTION)."""
    if not options:
        return None
    for key in options:
        if key not in _KEYS:
            raise _invalid(f"unknown option {key!r}", hint="there are type, device and o")
    kind, device = options.get("type", ""), options.get("device", "")
    given = [option for option in options.get("o", "").split(",") if option]
    if len(options.get("o", "")) > _MAX_OPTIONS:
        raise _invalid(f"o has more than {_MAX_OPTIONS} bytes")
    if kind == "tmpfs":
        return _tmpfs(given)
    if kind in ("none", "bind") or (not kind and {"bind", "rbind"} & set(given)):
        return _bind(kind, device, given)
    if kind in _NFS:
        return _nfs(kind, device, given)
    raise _invalid(f"type {kind!r} is not supported", hint="there are tmpfs, none (with o=bind), nfs and nfs4")


def is_host_path(options: Mapping[str, str]) -> bool:
    """Whether a volume with these options is a path of the host."""
    flags = set(options.get("o", "").split(","))
    return options.get("type", "") in ("none", "bind") or (not options.get("type") and bool({"bind", "rbind"} & flags))


def _tmpfs(given: list[str]) -> VolumeMount:
    flags, rest = _split(given)
    for option in rest:
        key, _, value = option.partition("=")
        if key not in _TMPFS or not _TMPFS[key].fullmatch(value):
            raise _invalid(f"tmpfs does not take {option!r}", hint=f"there are {', '.join(_TMPFS)} and mount flags")
    return VolumeMount("tmpfs", "tmpfs", flags, ",".join(rest))


def _bind(kind: str, device: str, given: list[str]) -> VolumeMount:
    flags, rest = _split(given)
    extra = [option for option in rest if option not in ("bind", "rbind")]
    if extra:
        raise _invalid(f"a bind does not take {extra[0]!r}", hint="there are bind, rbind, ro, nosuid, nodev and noexec")
    if kind == "none" and not {"bind", "rbind"} & set(rest):
        raise _invalid("type none needs o=bind")
    if not device.startswith("/") or "\0" in device or ".." in device.split("/"):
        raise _invalid(f"device {device!r} is not an absolute path on the host")
    return VolumeMount("bind", device, flags, recursive="rbind" in rest)


def _nfs(kind: str, device: str, given: list[str]) -> VolumeMount:
    flags, rest = _split(given)
    address = ""
    kept = []
    for option in rest:
        if not _NFS_OPTION.fullmatch(option):
            raise _invalid(f"nfs does not take {option!r}")
        if option.startswith("addr="):
            address = option.removeprefix("addr=")
        else:
            kept.append(option)
    server, separator, path = device.partition(":/")
    if not separator or "\0" in device:
        raise _invalid(f"device {device!r} is no NFS export", hint="write device=:/path with o=addr=SERVER")
    address = address or server
    if not address:
        raise _invalid("the NFS server is missing", hint="write o=addr=SERVER")
    return VolumeMount(kind, f"{server}:/{path}", flags, ",".join(kept), address=address)


def _split(given: list[str]) -> tuple[MountFlags, list[str]]:
    flags = MountFlags.NONE
    rest = []
    for option in given:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option not in _WITHOUT:
            rest.append(option)
    return flags, rest


def _invalid(why: str, *, hint: str | None = None) -> InvalidArgument:
    return InvalidArgument(f"invalid volume options: {why}", reason="INVALID_VOLUME_OPTION", hint=hint)
