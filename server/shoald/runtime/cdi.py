"""Container Device Interface: what a device of a vendor means for a container (CDI specification 1.0.0); pure.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md. Supported edits: env, deviceNodes, mounts,
hooks and additionalGids. What a specification of a later version says besides is refused for the devices that say it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.runtime.cdi_yaml import YAML_SUFFIXES, load_yaml
from shoald.runtime.hooks import HOOKS, Hook

_VERSION = re.compile(r"v?\d+\.\d+\.\d+([-+].*)?")
_SHOWN = 10
_NVIDIA = "nvidia.com/gpu"


class CdiNode(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A device node; what is not given is as on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class CdiMount(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A mount from the host."""

    host_path: str
    container_path: str
    type: str = ""
    options: tuple[str, ...] = ()


class CdiHook(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A program around a container's start or end; `timeout` in seconds."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is added to a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[CdiNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    hooks: tuple[CdiHook, ...] = ()
    additional_gids: tuple[int, ...] = field(default=(), name="additionalGids")
    intel_rdt: object = None
    net_devices: object = None

    def plus(self, other: Edits) -> Edits:
        """Both, each thing once."""
        return Edits(
            env=tuple(dict.fromkeys((*self.env, *other.env))),
            device_nodes=tuple(dict.fromkeys((*self.device_nodes, *other.device_nodes))),
            mounts=tuple(dict.fromkeys((*self.mounts, *other.mounts))),
            hooks=tuple(dict.fromkeys((*self.hooks, *other.hooks))),
            additional_gids=tuple(dict.fromkeys((*self.additional_gids, *other.additional_gids))),
        )

    def oci_hooks(self) -> dict[str, tuple[Hook, ...]]:
        """The hooks by their kind, in their order."""
        found: dict[str, tuple[Hook, ...]] = {}
        for each in self.hooks:
            hook = Hook(path=each.path, args=each.args, env=each.env, timeout=each.timeout)
            found[each.hook_name] = (*found.get(each.hook_name, ()), hook)
        return found


class CdiDevice(Struct, frozen=True, rename="camel"):
    """A device of a specification. Its edits are looked at when somebody asks for it."""

    name: str | int
    container_edits: dict[str, Any] = {}


class CdiSpec(Struct, frozen=True, rename="camel"):
    """A specification file."""

    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...] = ()
    container_edits: dict[str, Any] = {}


class CdiFile(Struct, frozen=True):
    """A specification and where it was read."""

    path: str
    spec: CdiSpec


class CdiLibrary(Struct, frozen=True):
    """What a host has."""

    devices: Mapping[str, tuple[CdiFile, CdiDevice]] = {}
    """`vendor.com/class=name` -> where it is described."""
    conflicts: Mapping[str, tuple[str, ...]] = {}
    """Name -> the files of one directory that all describe it: nobody can say which is meant."""
    unusable: Mapping[str, str] = {}
    """File -> why it can't be used; says which file, too."""
    places: tuple[str, ...] = ("/etc/cdi",)
    """The directories, for people."""


def parse_spec(data: bytes, name: str) -> CdiSpec:
    """A file's content; `name` tells JSON from YAML, and is for errors. Raises FailedPrecondition (BAD_CDI_SPEC)."""
    try:
        if name.endswith(YAML_SUFFIXES):
            spec = msgspec.convert(load_yaml(data), CdiSpec)
        else:
            spec = msgspec.json.decode(data, type=CdiSpec)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _bad(name, str(error)) from None
    if _VERSION.fullmatch(spec.cdi_version) is None:
        raise _bad(name, f"{spec.cdi_version!r} is not a version")
    return spec


def library(directories: Mapping[str, Sequence[CdiFile]], unusable: Mapping[str, str]) -> CdiLibrary:
    """All devices of the directories, of which the later ones win."""
    devices: dict[str, tuple[CdiFile, CdiDevice]] = {}
    conflicts: dict[str, tuple[str, ...]] = {}
    for files in directories.values():
        here: dict[str, list[tuple[CdiFile, CdiDevice]]] = {}
        for file in files:
            for device in file.spec.devices:
                here.setdefault(f"{file.spec.kind}={device.name}", []).append((file, device))
        for name, found in here.items():
            conflicts.pop(name, None)
            devices[name] = found[-1]
            if len(found) > 1:
                conflicts[name] = tuple(dict.fromkeys(file.path for file, _ in found))
    return CdiLibrary(devices, conflicts, unusable, tuple(directories) or ("/etc/cdi",))


def edits_of(names: Sequence[str], known: CdiLibrary) -> Edits:
    """What the devices (`vendor.com/class=name`) come to together.

    Raises InvalidArgument (UNKNOWN_CDI_DEVICE), FailedPrecondition (BAD_CDI_SPEC, CDI_CONFLICT, CDI_UNSUPPORTED).
    """
    found = Edits()
    applied: set[str] = set()
    for name in dict.fromkeys(names):
        if name in known.conflicts:
            raise FailedPrecondition(
                f"CDI device {name} is described more than once: in {' and '.join(known.conflicts[name])}",
                reason="CDI_CONFLICT",
                hint="leave one of the descriptions",
            )
        if name not in known.devices:
            raise _unknown(name, known)
        file, device = known.devices[name]
        # A specification's own edits apply once, however many of its devices are asked for.
        if file.path not in applied:
            found = found.plus(_edits(name, file, file.spec.container_edits))
            applied.add(file.path)
        found = found.plus(_edits(name, file, device.container_edits))
    return found


def _unknown(name: str, known: CdiLibrary) -> InvalidArgument:
    kind = name.partition("=")[0]
    same = [each for each in sorted(known.devices) if each.startswith(f"{kind}=")]
    shown = (same or sorted(known.devices))[:_SHOWN]
    unused = "; ".join(["", *(f"not used: {why}" for why in list(known.unusable.values())[:_SHOWN])])
    if shown:
        hint = f"it has {', '.join(shown)}"
    elif known.unusable:
        hint = "a specification must be right, belong to root and be writable by nobody else"
    else:
        hint = f"there is no specification in {' or '.join(known.places)}"
        hint += f": nvidia-ctk cdi generate --output={known.places[0]}/nvidia.yaml" if kind == _NVIDIA else ""
    return InvalidArgument(
        f"this host has no CDI device {name}{unused}",
        reason="UNKNOWN_CDI_DEVICE",
        hint=hint,
        metadata={"device": name},
    )


def _edits(name: str, file: CdiFile, given: Mapping[str, Any]) -> Edits:
    try:
        edits = msgspec.convert(given, Edits)
    except msgspec.ValidationError as error:
        reason = "CDI_UNSUPPORTED" if "unknown field" in str(error) else "BAD_CDI_SPEC"
        raise FailedPrecondition(f"CDI device {name} ({file.path}): {error}", reason=reason) from None
    for what, value in (("sets Intel RDT", edits.intel_rdt), ("moves network interfaces", edits.net_devices)):
        if value is not None:
            raise FailedPrecondition(
                f"CDI device {name} ({file.path}) {what}, which shoal does not", reason="CDI_UNSUPPORTED"
            )
    for wrong in _wrong(edits):
        raise FailedPrecondition(f"CDI device {name} ({file.path}): {wrong}", reason="BAD_CDI_SPEC")
    return msgspec.structs.replace(edits, additional_gids=tuple(gid for gid in edits.additional_gids if gid))


def _wrong(edits: Edits) -> Iterator[str]:
    """What makes no sense."""
    paths = [node.path for node in edits.device_nodes] + [hook.path for hook in edits.hooks]
    paths += [path for mount in edits.mounts for path in (mount.host_path, mount.container_path)]
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            yield f"{path!r} is not absolute"
    for entry in (*edits.env, *(entry for hook in edits.hooks for entry in hook.env)):
        if not entry.partition("=")[0] or "=" not in entry or "\0" in entry:
            yield f"{entry!r} is not NAME=VALUE"
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            yield f"there are no hooks of the name {hook.hook_name!r}"
        if hook.timeout is not None and hook.timeout <= 0:
            yield f"the timeout {hook.timeout} of hook {hook.path} is not more than zero seconds"


def _bad(name: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"CDI specification {name}: {why}", reason="BAD_CDI_SPEC")
