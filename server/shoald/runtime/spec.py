"""From a container's record to the OCI runtime configuration (config.json). Pure: no I/O, no clock.

Follows the OCI runtime spec 1.0.2 (what runc 1.1 and crun 1.8 implement) and Docker's defaults, with no-new-privileges
and a user namespace on top.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shoal.errors import InvalidArgument
from shoald.model.container import Container
from shoald.runtime.capabilities import capability_sets
from shoald.runtime.masked import MASKED_PATHS, READONLY_PATHS
from shoald.runtime.mounts import (
    INIT_TARGET,
    ContainerFiles,
    HostMount,
    file_mounts,
    kernel_mounts,
    merge,
    user_mount,
)
from shoald.runtime.resources import HostLimits, resources, rlimits

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ResolvedUser(Struct, frozen=True):
    """Numbers for USER, as seen inside the container."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


class SpecInput(Struct, frozen=True, kw_only=True):
    """All that the configuration depends on."""

    container: Container
    user: ResolvedUser
    rootfs: str
    """Host path of the mounted root file system."""
    cgroup_path: str
    """Path in the cgroup hierarchies, for example /shoal/<id>."""
    mounts: Sequence[HostMount] = ()
    files: ContainerFiles = ContainerFiles()
    userns_size: int = 65536
    """Length of the id mapping that starts at `container.userns_base` (0: the host's user namespace)."""
    seccomp: Mapping[str, Any] | None = None
    """The `linux.seccomp` object, or None for no filter."""
    init_path: str = ""
    """Host path of the init program, needed when the container asks for one."""
    limits: HostLimits = HostLimits()
    recursive_read_only: bool = True
    """The kernel is at least RECURSIVE_READ_ONLY_KERNEL."""
    masked_paths: Sequence[str] = ()
    """What to mask on this host besides `MASKED_PATHS` (see `thermal_paths`)."""


def runtime_config(given: SpecInput) -> dict[str, Any]:
    """The OCI runtime configuration. Raises InvalidArgument (INVALID_MOUNT, INVALID_WORKDIR, NO_COMMAND)."""
    spec = given.container.spec
    user_namespace = given.container.userns_base > 0
    host_network = spec.network == "host"
    recursive = given.recursive_read_only
    init_path = given.init_path if spec.init else ""
    defaults = [
        *kernel_mounts(user_namespace=user_namespace, host_network=host_network, recursive=recursive),
        *file_mounts(given.files, init_path=init_path),
    ]
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(given),
        "root": {"path": given.rootfs, "readonly": spec.read_only},
        "hostname": given.container.hostname,
        "mounts": merge(defaults, [user_mount(mount, recursive=recursive) for mount in given.mounts]),
        "linux": _linux(given, user_namespace=user_namespace, host_network=host_network),
    }


def _process(given: SpecInput) -> dict[str, Any]:
    container, user = given.container, given.user
    args = list(container.process.args)
    if not args:
        raise InvalidArgument("no command: neither the image nor the request names one", reason="NO_COMMAND")
    if container.spec.init:
        args = [INIT_TARGET, "--", *args]
    return {
        "terminal": container.spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids), "umask": 0o022},
        "args": args,
        "env": environment(container, user),
        "cwd": working_dir(container.process.working_dir),
        "capabilities": capability_sets(user.uid),
        "rlimits": rlimits(given.limits),
        "noNewPrivileges": True,
    }


def environment(container: Container, user: ResolvedUser) -> list[str]:
    """The process's environment: PATH, HOSTNAME, TERM (with a terminal) and HOME, unless image or request set them."""
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": container.hostname}
    if container.spec.tty:
        defaults["TERM"] = "xterm"
    given = {entry.partition("=")[0] for entry in container.process.env}
    first = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    last = [] if "HOME" in given else [f"HOME={user.home}"]
    return [*first, *container.process.env, *last]


def working_dir(path: str) -> str:
    """The normalised working directory. Raises InvalidArgument (INVALID_WORKDIR).

    Refused are relative paths and ways through /proc or the descriptor links of /dev, where open files of a runtime
    could be reached (CVE-2024-21626); see also `shoald.runtime.workdir` for symlinks.
    """
    path = path or "/"
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"working directory {path!r} is not an absolute path", reason="INVALID_WORKDIR")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if leads_to_descriptors(clean):
        raise InvalidArgument(f"working directory {path!r} is not allowed", reason="INVALID_WORKDIR")
    return clean


def leads_to_descriptors(path: str) -> bool:
    """True for a normalised path below /proc, or one of the /dev links to open files."""
    parts = path.split("/")[1:]
    if parts[0] == "dev":
        return parts[1:2] in (["fd"], ["stdin"], ["stdout"], ["stderr"])
    return parts[0] == "proc" and len(parts) > 1


def _linux(given: SpecInput, *, user_namespace: bool, host_network: bool) -> dict[str, Any]:
    kinds = ["pid", "mount", "ipc", "uts", "cgroup"]
    if not host_network:
        kinds.append("network")
    linux: dict[str, Any] = {
        "cgroupsPath": given.cgroup_path,
        "resources": resources(given.container.spec.resources, given.limits),
        "maskedPaths": [*MASKED_PATHS, *given.masked_paths],
        "readonlyPaths": list(READONLY_PATHS),
    }
    if user_namespace:
        kinds.append("user")
        mapping = [{"containerID": 0, "hostID": given.container.userns_base, "size": given.userns_size}]
        linux["uidMappings"] = mapping
        linux["gidMappings"] = mapping
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    if not host_network:
        # Group ids beyond the mapping do not exist in the namespace, and the kernel refuses them.
        highest = given.userns_size - 1 if user_namespace else 2_147_483_647
        linux["sysctl"] = {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": f"0 {highest}",
        }
    if given.seccomp is not None:
        linux["seccomp"] = dict(given.seccomp)
    return linux
