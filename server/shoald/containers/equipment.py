"""What a container gets of its host's devices, looked up on the host: --device, CDI, --privileged."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.host.devices import HostDevice, all_devices, block_device, devices_at, make_nodes
from shoald.model.container import Container, ContainerSpec, Device
from shoald.runtime.cdi import CdiNode, CdiSpec, Edits, edits_of, parse_spec
from shoald.runtime.devices import OF_EVERY_CONTAINER, DeviceNode, Equipment
from shoald.runtime.resources import limited_devices

CDI_DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""As in the CDI specification; in the second ones what a driver wrote since the host started, which wins."""

_MAX_SPEC_BYTES = 4 << 20


def equipment(spec: ContainerSpec, directories: Sequence[Path] = CDI_DIRECTORIES) -> Equipment:
    """Everything as it is on the host now. Raises InvalidArgument (DEVICE_MISSING, NOT_A_DEVICE, UNKNOWN_CDI_DEVICE),
    FailedPrecondition (BAD_CDI_SPEC, CDI_HOOKS)."""
    edits = edits_of(spec.cdi_devices, cdi_specs(directories)) if spec.cdi_devices else Edits()
    nodes: dict[str, DeviceNode] = {}
    for host in all_devices() if spec.privileged else ():
        nodes[host.path] = _node(host, host.path, "rwm")
    for device in spec.devices:
        nodes |= {node.path: node for node in _asked(device)}
    for each in edits.device_nodes:
        nodes[each.path] = _cdi_node(each)
    kept = tuple(node for path, node in nodes.items() if path not in OF_EVERY_CONTAINER)
    return Equipment(
        nodes=kept,
        env=edits.env,
        mounts=tuple((each.container_path, each.host_path, each.type, each.options) for each in edits.mounts),
        groups=edits.additional_gids,
        numbers={path: block_device(path) for path in limited_devices(spec.resources)},
    )


def place_nodes(container: Container, nodes: Sequence[DeviceNode], directory: Path, size: int) -> Sequence[str]:
    """Copies of the nodes for a container with a user namespace, in which nobody can make any; their paths.

    Owned by the same ids as on the host, seen from inside. `directory` is mounted here and unmounted by the caller.
    """
    base = container.userns_base
    if not nodes or not base:
        return ()
    owners = [(base + node.uid if node.uid < size else base, base + node.gid if node.gid < size else base)
              for node in nodes]  # fmt: skip
    make_nodes(directory, [(node.kind, node.major, node.minor, node.mode) for node in nodes], owners)
    return [str(directory / f"{number:04d}") for number in range(len(nodes))]


def cdi_specs(directories: Sequence[Path]) -> list[CdiSpec]:
    """All specifications in JSON, those of the later directories last. Raises FailedPrecondition (BAD_CDI_SPEC)."""
    found = []
    for directory in directories:
        for path in sorted(directory.glob("*.json")):
            with path.open("rb") as file:
                data = file.read(_MAX_SPEC_BYTES + 1)
            if len(data) > _MAX_SPEC_BYTES:
                raise FailedPrecondition(f"CDI specification {path} is too large", reason="BAD_CDI_SPEC")
            found.append(parse_spec(data, str(path)))
    return found


def _asked(device: Device) -> list[DeviceNode]:
    target = device.path_in_container or device.path_on_host
    return [
        _node(host, posixpath.normpath(posixpath.join(target, host.below)), device.permissions)
        for host in devices_at(device.path_on_host)
    ]


def _node(host: HostDevice, path: str, permissions: str) -> DeviceNode:
    return DeviceNode(path, host.kind, host.major, host.minor, host.mode, host.uid, host.gid, permissions)


def _cdi_node(given: CdiNode) -> DeviceNode:
    path = given.host_path or given.path
    (host, *_) = devices_at(path)
    numbers = (given.major, given.minor) if given.major or given.minor else (host.major, host.minor)
    mode = host.mode if given.file_mode is None else stat.S_IMODE(given.file_mode)
    return DeviceNode(
        given.path,
        given.type if given.type in ("b", "c") else host.kind,
        *numbers,
        mode,
        host.uid if given.uid is None else given.uid,
        host.gid if given.gid is None else given.gid,
        given.permissions or "rwm",
    )
