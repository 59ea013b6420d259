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
from shoald.model.container import Container, ContainerSpec
from shoald.runtime.capabilities import ALL_CAPABILITIES, bounding_set, capability_sets
from shoald.runtime.devices import Equipment, device_list, device_rules
from shoald.runtime.hooks import hook_list
from shoald.runtime.masked import MASKED_PATHS, READONLY_PATHS
from shoald.runtime.mounts import (
    INIT_TARGET,
    SHM_SIZE,
    SLAVES,
    ContainerFiles,
    HostMount,
    KernelMounts,
    device_mounts,
    file_mounts,
    kernel_mounts,
    merge,
    user_mount,
)
from shoald.runtime.namespaces import Joined, hosts, namespaces, own
from shoald.runtime.resources import HostLimits, resources
from shoald.runtime.security import UNCONFINED, security_options
from shoald.runtime.sysctls import sysctls
from shoald.runtime.ulimits import rlimits

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
    capabilities: Sequence[str] = ALL_CAPABILITIES
    """What this host's kernel knows, and the daemon may give."""
    joined: Mapping[str, Joined] = {}
    """Namespace -> the running container whose it is."""
    equipment: Equipment = Equipment()
    device_sources: Sequence[str] = ()
    """Host paths of copies of the equipment's nodes, in its order: for a container with a user namespace."""
    shm_source: str = ""
    """Host path of the /dev/shm that it shares with others."""


def runtime_config(given: SpecInput) -> dict[str, Any]:
    """The OCI runtime configuration. Raises InvalidArgument (INVALID_MOUNT, INVALID_WORKDIR, NO_COMMAND...)."""
    spec = given.container.spec
    recursive = given.recursive_read_only
    defaults = [
        *kernel_mounts(_kernel_mounts(given)),
        *device_mounts(given.equipment, given.device_sources),
        *file_mounts(given.files, init_path=given.init_path if spec.init else ""),
    ]
    config: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(given),
        "root": {"path": given.rootfs, "readonly": spec.read_only},
        "mounts": merge(defaults, [user_mount(mount, recursive=recursive) for mount in given.mounts]),
        "linux": _linux(given),
    }
    if own(spec, "uts"):
        config["hostname"] = given.container.hostname
        if spec.domainname:
            config["domainname"] = spec.domainname
    if spec.annotations:
        config["annotations"] = dict(spec.annotations)
    if given.equipment.hooks:
        config["hooks"] = hook_list(given.equipment.hooks)
    return config


def _kernel_mounts(given: SpecInput) -> KernelMounts:
    spec = given.container.spec
    return KernelMounts(
        user_namespace=given.container.userns_base > 0,
        host_network=hosts(spec, "network"),
        host_ipc=hosts(spec, "ipc"),
        privileged=spec.privileged,
        read_only=spec.read_only,
        shm_size=spec.shm_size_bytes or SHM_SIZE,
        shm_source=given.joined["ipc"].shm if "ipc" in given.joined else given.shm_source,
        recursive=given.recursive_read_only,
    )


def bounding_capabilities(spec: ContainerSpec, known: Sequence[str] = ALL_CAPABILITIES) -> tuple[str, ...]:
    """What the container may hold at most. Raises InvalidArgument (INVALID_CAPABILITY)."""
    return bounding_set(spec.cap_add, spec.cap_drop, privileged=spec.privileged, known=known)


def _process(given: SpecInput) -> dict[str, Any]:
    container, user, spec = given.container, given.user, given.container.spec
    args = list(container.process.args)
    if not args:
        raise InvalidArgument("no command: neither the image nor the request names one", reason="NO_COMMAND")
    if spec.init:
        args = [INIT_TARGET, "--", *args]
    options = security_options(spec.security_options)
    groups = list(dict.fromkeys((*user.additional_gids, *given.equipment.groups)))
    process = {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups, "umask": 0o022},
        "args": args,
        "env": _replaced(environment(container, user), given.equipment.env),
        "cwd": working_dir(container.process.working_dir),
        "capabilities": capability_sets(user.uid, bounding_capabilities(spec, given.capabilities)),
        "rlimits": rlimits(spec.ulimits, given.limits.hard_limits),
        "noNewPrivileges": not spec.privileged if options.no_new_privileges is None else options.no_new_privileges,
    }
    if options.apparmor not in ("", UNCONFINED):
        process["apparmorProfile"] = options.apparmor
    if spec.oom_score_adj:
        floor = given.limits.oom_score_floor
        process["oomScoreAdj"] = spec.oom_score_adj if floor is None else max(spec.oom_score_adj, floor)
    return process


def environment(container: Container, user: ResolvedUser) -> list[str]:
    """The process's environment: PATH, HOSTNAME, TERM (with a terminal) and HOME, unless image or request set them."""
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": container.hostname}
    if container.spec.tty:
        defaults["TERM"] = "xterm"
    given = {entry.partition("=")[0] for entry in container.process.env}
    first = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    last = [] if "HOME" in given else [f"HOME={user.home}"]
    return [*first, *container.process.env, *last]


def _replaced(environment: Sequence[str], later: Sequence[str]) -> list[str]:
    """Both; of two entries with one name the later one, since programs go by the first."""
    names = {entry.partition("=")[0] for entry in later}
    return [*(entry for entry in environment if entry.partition("=")[0] not in names), *later]


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


def _linux(given: SpecInput) -> dict[str, Any]:
    spec, base = given.container.spec, given.container.userns_base
    nodes = given.equipment.nodes
    rules = device_rules(nodes, spec.device_cgroup_rules, privileged=spec.privileged)
    linux: dict[str, Any] = {
        "cgroupsPath": given.cgroup_path,
        "resources": resources(spec.resources, given.limits, devices=rules, numbers=given.equipment.numbers),
        "maskedPaths": [],
        "readonlyPaths": [],
    }
    if not spec.privileged and security_options(spec.security_options).system_paths:
        linux["maskedPaths"] = [*MASKED_PATHS, *given.masked_paths]
        linux["readonlyPaths"] = list(READONLY_PATHS)
    if base:
        mapping = [{"containerID": 0, "hostID": base, "size": given.userns_size}]
        linux["uidMappings"] = mapping
        linux["gidMappings"] = mapping
    linux["namespaces"] = namespaces(spec, given.joined, user_namespace=base > 0)
    settings = sysctls(spec, userns_size=given.userns_size, user_namespace=base > 0)
    if settings:
        linux["sysctl"] = settings
    if nodes and not given.device_sources:
        linux["devices"] = device_list(nodes)
    if given.seccomp is not None:
        linux["seccomp"] = dict(given.seccomp)
    if any(mount.propagation in SLAVES for mount in given.mounts):
        # Else the runtime cuts every mount off from the host before it binds one as a slave.
        linux["rootfsPropagation"] = "rslave"
    return linux
