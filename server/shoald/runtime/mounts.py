"""Mounts of a container: the kernel's file systems, the daemon's files, and what the user asked for."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from shoal.errors import InvalidArgument
from shoald.model.container import MountKind
from shoald.runtime.devices import Equipment

INIT_TARGET = "/dev/init"
"""Where `--init` puts its program: /dev is ours in every container, even a read-only one."""

SHM_SIZE = 64 << 20

SLAVES = ("rslave", "slave")
PROPAGATIONS = ("rprivate", "private", *SLAVES)
"""What a bind mount may be: none lets what the container mounts out to the host."""

_TMPFS_OPTION = re.compile(
    r"(no)?(exec|suid|dev|atime|diratime)|relatime|strictatime|(uid|gid)=\d{1,10}|nr_(inodes|blocks)=\d{1,12}[kmg]?"
)

RECURSIVE_READ_ONLY_KERNEL = (5, 12)
"""The first Linux whose mount_setattr makes a bind mount read-only with all that is mounted below its source."""


class HostMount(Struct, frozen=True):
    """A mount whose source is resolved. `source`: absolute host path (BIND, VOLUME), unused for TMPFS."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    tmpfs_options: tuple[str, ...] = ()
    single_file: bool = False
    """Nothing is mounted below it, and crun (1.8) makes only directories recursively read-only."""
    propagation: str = "rprivate"
    """rprivate, rslave, private or slave: a container never mounts into the host."""
    options: tuple[str, ...] = ()
    """nosuid, nodev, noexec, where the source's file system has them: a user namespace can't be without."""


class ContainerFiles(Struct, frozen=True):
    """Host paths of the files that the daemon writes for a container; "" leaves the image's own."""

    resolv_conf: str = ""
    hostname: str = ""
    hosts: str = ""


class KernelMounts(Struct, frozen=True, kw_only=True):
    """What the mounts of the kernel's file systems depend on. A namespace "of the host" is shared with it."""

    user_namespace: bool
    host_network: bool
    host_ipc: bool = False
    privileged: bool = False
    read_only: bool = False
    """The root file system is read-only; then nothing of a privileged one's is writable either."""
    shm_size: int = SHM_SIZE
    shm_source: str = ""
    """A tmpfs on the host that is its /dev/shm, for containers that share one."""
    recursive: bool = False
    """See `read_only`."""


def kernel_mounts(given: KernelMounts) -> list[dict[str, Any]]:
    """/proc, /dev, /sys and what is below them, as Docker mounts them."""
    hardened = ["nosuid", "noexec", "nodev"]
    access = ["rw"] if given.privileged and not given.read_only else ["ro"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _mount("/proc", "proc", "proc", hardened),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _sysfs(given, hardened, access),
        _mount("/dev/pts", "devpts", "devpts", pts),
        *_ipc_mounts(given, hardened),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*hardened, "relatime", *access]),
    ]


def _sysfs(given: KernelMounts, hardened: list[str], access: list[str]) -> dict[str, Any]:
    if given.user_namespace and given.host_network:
        # sysfs shows a network namespace, and the kernel mounts it only for the user namespace that owns that one.
        return _mount("/sys", "bind", "/sys", ["rbind", "rprivate", *hardened, *read_only(given.recursive)])
    return _mount("/sys", "sysfs", "sysfs", [*hardened, *access])


def _ipc_mounts(given: KernelMounts, hardened: list[str]) -> list[dict[str, Any]]:
    if given.shm_source or given.host_ipc:
        shm = _mount("/dev/shm", "bind", given.shm_source or "/dev/shm", ["rbind", "rprivate", *hardened])
    else:
        shm = _mount("/dev/shm", "tmpfs", "shm", [*hardened, "mode=1777", f"size={given.shm_size}"])
    if given.host_ipc and given.user_namespace:
        # The kernel mounts the queues only for the user namespace that owns them.
        return [shm]
    return [_mount("/dev/mqueue", "mqueue", "mqueue", hardened), shm]


def device_mounts(equipment: Equipment, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Copies of device nodes (`sources`, in the equipment's order) and what else belongs to devices of the host."""
    nodes = [
        _mount(node.path, "bind", source, ["bind", "rprivate", "nosuid", "noexec"])
        for node, source in zip(equipment.nodes, sources, strict=bool(sources))
    ]
    others = [
        _mount(target, kind or "bind", source, list(options or ("rbind", "rprivate", "nosuid", "nodev", "ro")))
        for target, source, kind, options in equipment.mounts
    ]
    return [*nodes, *others]


def file_mounts(files: ContainerFiles, *, init_path: str) -> list[dict[str, Any]]:
    """/etc/resolv.conf, /etc/hostname, /etc/hosts and, with `init_path`, the init program."""
    pairs = [
        ("/etc/resolv.conf", files.resolv_conf),
        ("/etc/hostname", files.hostname),
        ("/etc/hosts", files.hosts),
    ]
    mounts = [_mount(target, "bind", source, ["rbind", "rprivate"]) for target, source in pairs if source]
    if init_path:
        mounts.append(_mount(INIT_TARGET, "bind", init_path, ["bind", "rprivate", "ro", "nosuid", "nodev"]))
    return mounts


def read_only(recursive: bool) -> tuple[str, ...]:
    """Options of a read-only bind mount; `recursive` (see RECURSIVE_READ_ONLY_KERNEL): down to its leaves."""
    return ("ro", "rro") if recursive else ("ro",)


def user_mount(mount: HostMount, *, recursive: bool = False) -> dict[str, Any]:
    """One mount of the user's; `recursive`: see `read_only`. Raises InvalidArgument (INVALID_MOUNT)."""
    target = mount_target(mount.target)
    if mount.kind is MountKind.TMPFS:
        options = [*_tmpfs_options(mount.tmpfs_options), f"mode={mount.tmpfs_mode or 0o1777:o}"]
        if mount.tmpfs_size_bytes > 0:
            options.append(f"size={mount.tmpfs_size_bytes}")
        return _mount(target, "tmpfs", "tmpfs", [*options, "ro"] if mount.read_only else options)
    if not mount.source.startswith("/"):
        raise InvalidArgument(f"mount source {mount.source!r} is not an absolute path", reason="INVALID_MOUNT")
    if mount.propagation not in PROPAGATIONS:
        raise InvalidArgument(f"mount propagation {mount.propagation!r} is not allowed", reason="INVALID_MOUNT")
    return _mount(
        target,
        "bind",
        mount.source,
        [
            "rbind",
            mount.propagation,
            *(read_only(recursive and not mount.single_file) if mount.read_only else ["rw"]),
            *mount.options,
        ],
    )


def _tmpfs_options(asked: Sequence[str]) -> list[str]:
    """Docker's nosuid, noexec and nodev but for what was asked for. Raises InvalidArgument (INVALID_MOUNT)."""
    hardened = [name for name in ("nosuid", "noexec", "nodev") if name.removeprefix("no") not in asked]
    return [*hardened, *(tmpfs_option(option) for option in asked if option not in ("nosuid", "noexec", "nodev"))]


def tmpfs_option(option: str) -> str:
    """An option of a tmpfs as it is. Raises InvalidArgument (INVALID_MOUNT) for one that is not known."""
    if not _TMPFS_OPTION.fullmatch(option):
        raise InvalidArgument(
            f"invalid tmpfs option {option!r}",
            reason="INVALID_MOUNT",
            hint="exec, suid, dev, uid=N, gid=N or nr_inodes=N",
        )
    return option


def mount_target(target: str) -> str:
    """The target without `.`, `..` and doubled slashes. Raises InvalidArgument (INVALID_MOUNT)."""
    if not target.startswith("/") or "\0" in target:
        raise InvalidArgument(f"mount target {target!r} is not an absolute path", reason="INVALID_MOUNT")
    clean = "/" + posixpath.normpath(target).lstrip("/")
    if clean == "/" or clean == "/proc" or clean.startswith("/proc/"):
        raise InvalidArgument(f"nothing can be mounted at {clean}", reason="INVALID_MOUNT")
    return clean


def merge(defaults: Iterable[dict[str, Any]], asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All mounts, parents before children; one of the user's replaces a default with the same target.

    Raises InvalidArgument (INVALID_MOUNT) for two at one place.
    """
    targets = [mount["destination"] for mount in asked]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidArgument(f"two mounts at {target}", reason="INVALID_MOUNT")
    kept = [mount for mount in defaults if mount["destination"] not in targets]
    return sorted([*kept, *asked], key=lambda mount: mount["destination"].count("/"))


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
