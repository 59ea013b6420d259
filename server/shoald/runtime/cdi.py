"""Container Device Interface: what a device of a vendor means for a container (CDI specification 0.8.0); pure.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md. Supported edits: env, deviceNodes, mounts and
additionalGids. Hooks would run programs of the host around a container's start: a device that has some is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, field

from shoal.errors import FailedPrecondition, InvalidArgument


class CdiNode(Struct, frozen=True, rename="camel"):
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


class CdiMount(Struct, frozen=True, rename="camel"):
    """A mount from the host."""

    host_path: str
    container_path: str
    type: str = ""
    options: tuple[str, ...] = ()


class Edits(Struct, frozen=True, rename="camel"):
    """What is added to a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[CdiNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    hooks: tuple[object, ...] = ()
    additional_gids: tuple[int, ...] = field(default=(), name="additionalGids")
    intel_rdt: object = None

    def plus(self, other: Edits) -> Edits:
        """Both, each thing once."""
        return Edits(
            env=tuple(dict.fromkeys((*self.env, *other.env))),
            device_nodes=tuple(dict.fromkeys((*self.device_nodes, *other.device_nodes))),
            mounts=tuple(dict.fromkeys((*self.mounts, *other.mounts))),
            additional_gids=tuple(dict.fromkeys((*self.additional_gids, *other.additional_gids))),
        )


class CdiDevice(Struct, frozen=True, rename="camel"):
    """A device of a specification."""

    name: str
    container_edits: Edits = Edits()


class CdiSpec(Struct, frozen=True, rename="camel"):
    """A specification file."""

    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...] = ()
    container_edits: Edits = Edits()


def parse_spec(data: bytes, name: str) -> CdiSpec:
    """A file's content; `name` is for errors. Raises FailedPrecondition (BAD_CDI_SPEC)."""
    try:
        spec = msgspec.json.decode(data, type=CdiSpec)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FailedPrecondition(f"CDI specification {name}: {error}", reason="BAD_CDI_SPEC") from None
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        paths = [node.path for node in edits.device_nodes]
        paths += [path for mount in edits.mounts for path in (mount.host_path, mount.container_path)]
        for path in paths:
            if not path.startswith("/") or ".." in path.split("/"):
                raise FailedPrecondition(f"CDI specification {name}: {path!r} is not absolute", reason="BAD_CDI_SPEC")
    return spec


def edits_of(names: Sequence[str], specs: Iterable[CdiSpec]) -> Edits:
    """What the devices (`vendor.com/class=name`) come to together.

    Raises InvalidArgument (UNKNOWN_CDI_DEVICE), FailedPrecondition (CDI_HOOKS).
    """
    known = _known(specs)
    found = Edits()
    kinds: list[str] = []
    for name in names:
        if name not in known:
            raise InvalidArgument(
                f"this host has no CDI device {name}",
                reason="UNKNOWN_CDI_DEVICE",
                hint=f"it has {', '.join(sorted(known)[:10])}"
                if known
                else "there is no JSON in /etc/cdi and /var/run/cdi",
            )
        spec, device = known[name]
        # A specification's own edits apply once, however many of its devices are asked for.
        for edits in (*(() if spec.kind in kinds else (spec.container_edits,)), device.container_edits):
            _refuse(name, edits)
            found = found.plus(edits)
        kinds.append(spec.kind)
    return found


def _known(specs: Iterable[CdiSpec]) -> Mapping[str, tuple[CdiSpec, CdiDevice]]:
    return {f"{spec.kind}={device.name}": (spec, device) for spec in specs for device in spec.devices}


def _refuse(name: str, edits: Edits) -> None:
    if edits.hooks:
        raise FailedPrecondition(
            f"CDI device {name} wants to run hooks on the host, which shoal does not",
            reason="CDI_HOOKS",
            hint="write a specification with the device nodes and mounts alone",
        )
    if edits.intel_rdt is not None:
        raise FailedPrecondition(f"CDI device {name} sets Intel RDT, which shoal does not", reason="CDI_RDT")
