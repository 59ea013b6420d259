"""What a container gets of its host's devices, looked up on the host: --device, CDI, --privileged."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shoal.errors import FailedPrecondition
from shoald.containers.cdi_files import cdi_library
from shoald.host.devices import HostDevice, all_devices, block_device, devices_at, make_nodes
from shoald.model.container import Container, ContainerSpec, Device
from shoald.runtime.cdi import CdiHook, CdiNode, Edits, edits_of
from shoald.runtime.devices import OF_EVERY_CONTAINER, DeviceNode, Equipment
from shoald.runtime.resources import limited_devices


def equipment(spec: ContainerSpec, directories: Sequence[Path] = ()) -> Equipment:
    """Everything as it is on the host now. Blocking. Raises InvalidArgument (DEVICE_MISSING, NOT_A_DEVICE,
    UNKNOWN_CDI_DEVICE), FailedPrecondition (BAD_CDI_SPEC, CDI_CONFLICT, CDI_UNSUPPORTED, CDI_SOURCE_MISSING)."""
    edits = edits_of(spec.cdi_devices, cdi_library(directories)) if spec.cdi_devices else Edits()
    nodes: dict[str, DeviceNode] = {}
    for host in all_devices() if spec.privileged else ():
        nodes[host.path] = _node(host, host.path, "rwm")
    for device in spec.devices:
        nodes |= {node.path: node for node in _asked(device)}
    for missing in _missing(edits):
        raise FailedPrecondition(
            f"a CDI device that was asked for needs {missing}, which is not on this host",
            reason="CDI_SOURCE_MISSING",
            hint="its specification may be older than the driver: write it anew",
        )
    for each in edits.device_nodes:
        nodes[each.path] = _cdi_node(each)
    kept = tuple(node for path, node in nodes.items() if path not in OF_EVERY_CONTAINER)
    return Equipment(
        nodes=kept,
        env=edits.env,
        mounts=tuple((each.container_path, each.host_path, each.type, each.options) for each in edits.mounts),
        groups=edits.additional_gids,
        hooks=edits.oci_hooks(),
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


def _missing(edits: Edits) -> Iterator[str]:
    yield from (path for node in edits.device_nodes if not os.path.exists(path := node.host_path or node.path))
    yield from (f"the program {hook.path}" for hook in edits.hooks if _is_missing(hook))
    for mount in edits.mounts:
        bound = mount.type in ("", "none", "bind") or {"bind", "rbind"} & set(mount.options)
        if bound and not os.path.exists(mount.host_path):
            yield mount.host_path


def _is_missing(hook: CdiHook) -> bool:
    # The path of a startContainer hook is one in the container.
    return hook.hook_name != "startContainer" and not (os.path.isfile(hook.path) and os.access(hook.path, os.X_OK))


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
