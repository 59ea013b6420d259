"""Control groups, version 1, 2 and the mixture of both: where they are, what they use, making, killing, removing.

A cgroup is named by its path from the root of the hierarchies, for example "/shoal/abc", the same in all of them.
Reads are blocking but only touch the kernel's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.host.blocking import in_thread
from shoald.host.mountinfo import MountPoint, read_mountinfo
from shoald.host.mounts import MountFlags, mount, unmount
from shoald.host.pid import pidfd_open
from shoald.host.syscall import failure, translated

ROOT = Path("/sys/fs/cgroup")

_V1_RESOURCES = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer"})
_V1_CONTROLLERS = _V1_RESOURCES | {"hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc", "dmem"}
_V1_NAMES = {"io": ("blkio",), "cpu": ("cpu", "cpuacct")}
"""The controllers of version 1 for one of version 2, where the names differ."""

_WEIGHTS = ("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight")
_RETRY_SECONDS = 0.02


class Mode(StrEnum):
    """How the host mounts its cgroups: all v1, v1 with an (almost) empty v2 beside it, all v2."""

    LEGACY = "legacy"
    HYBRID = "hybrid"
    UNIFIED = "unified"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy: its controllers ("name=systemd" for a named one of v1) and its version, 1 or 2."""

    mount: Path
    version: int
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The host's hierarchies as found by `detect`."""

    mode: Mode
    hierarchies: tuple[Hierarchy, ...]

    @property
    def controllers(self) -> frozenset[str]:
        """All controllers by the name they have here ("blkio" on v1 is "io" on v2), named hierarchies left out."""
        return frozenset(name for one in self.hierarchies for name in one.controllers if not name.startswith("name="))

    def path(self, cgroup: str, controller: str) -> Path | None:
        """The directory of a cgroup in the hierarchy of a controller; None when the host has no such controller."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy.mount / _relative(cgroup)
        return None

    def paths(self, cgroup: str) -> list[Path]:
        """The directories of a cgroup in all hierarchies, whether they exist or not."""
        return [hierarchy.mount / _relative(cgroup) for hierarchy in self.hierarchies]


def _relative(cgroup: str) -> PurePosixPath:
    relative = PurePosixPath(cgroup.lstrip("/"))
    if ".." in relative.parts:
        raise InvalidArgument(f"bad cgroup path {cgroup!r}", reason="INVALID_CGROUP")
    return relative


def hierarchies_of(mounts: Iterable[MountPoint], unified_controllers: frozenset[str] = frozenset()) -> Cgroups:
    """Find the hierarchies among mounts; `unified_controllers` is what cgroup.controllers of v2 says. Pure."""
    found: dict[Path, Hierarchy] = {}
    for mounted in mounts:
        if mounted.root != "/" or (mounted.path != ROOT and ROOT not in mounted.path.parents):
            # A part of a hierarchy bound elsewhere (into a container's root) is not where we work.
            continue
        if mounted.fstype == "cgroup2":
            found[mounted.path] = Hierarchy(mounted.path, 2, unified_controllers)
        elif mounted.fstype == "cgroup":
            options = mounted.super_options
            names = options & _V1_CONTROLLERS | {option for option in options if option.startswith("name=")}
            found[mounted.path] = Hierarchy(mounted.path, 1, frozenset(names))
    versions = {hierarchy.version for hierarchy in found.values()}
    mode = Mode.LEGACY if versions <= {1} else Mode.UNIFIED if versions == {2} else Mode.HYBRID
    return Cgroups(mode, tuple(found.values()))


def detect() -> Cgroups:
    """The cgroup hierarchies of this host. FailedPrecondition NO_CGROUPS when none is mounted below /sys/fs/cgroup."""
    mounts = read_mountinfo()
    found = hierarchies_of(mounts)
    for hierarchy in found.hierarchies:
        if hierarchy.version == 2:
            found = hierarchies_of(mounts, frozenset(_text(hierarchy.mount / "cgroup.controllers").split()))
    if not found.hierarchies:
        raise FailedPrecondition("no cgroup hierarchy is mounted below /sys/fs/cgroup", reason="NO_CGROUPS")
    return found


def knows_io_weights(cgroups: Cgroups) -> bool:
    """Whether a cgroup has a weight for block I/O: the scheduler in use decides. No root cgroup has one: another is
    made for a moment, to look."""
    root = cgroups.path("/", "blkio") or cgroups.path("/", "io")
    if root is None:
        return False
    probe = root / f"shoal-weights-{os.getpid()}"
    try:
        probe.mkdir(exist_ok=True)
        return any((probe / name).exists() for name in _WEIGHTS)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()


def mount_missing_v1_controllers() -> list[str]:
    """On a hybrid host mount every controller that was left to v2 as v1; what was mounted. Idempotent.

    crun refuses a hybrid host ("cgroups in hybrid mode not supported") as long as v2 keeps a controller there.
    """
    found = detect()
    if found.mode is not Mode.HYBRID:
        return []
    have = {name for hierarchy in found.hierarchies if hierarchy.version == 1 for name in hierarchy.controllers}
    left = {name for hierarchy in found.hierarchies if hierarchy.version == 2 for name in hierarchy.controllers}
    missing = sorted((left | _lingering(_text(Path("/proc/cgroups")))) - have)
    mounted: list[str] = []
    for name in missing:
        for controller in _V1_NAMES.get(name, (name,)):
            _mount_v1(controller)
            mounted.append(controller)
    return mounted


def _lingering(table: str) -> set[str]:
    """Controllers of /proc/cgroups that have a version 1 hierarchy, mounted or not: one that was unmounted a moment ago
    goes back to version 2 at a time of the kernel's choosing."""
    rows = [line.split() for line in table.splitlines() if not line.startswith("#")]
    return {row[0] for row in rows if len(row) == 4 and row[1] != "0" and row[3] == "1"}


def _mount_v1(controller: str) -> None:
    target = ROOT / controller
    with translated("make directory for cgroup controller", target):
        target.mkdir(exist_ok=True)
    flags = MountFlags.NOSUID | MountFlags.NODEV | MountFlags.NOEXEC
    try:
        mount("cgroup", target, "cgroup", flags, controller)
    except BaseException:
        unmount(target)
        with contextlib.suppress(OSError):
            target.rmdir()
        raise


def create(cgroups: Cgroups, cgroup: str) -> None:
    """Make a cgroup (and its parents) in all hierarchies; v2 controllers are enabled for it, v1 cpusets filled in."""
    relative = _relative(cgroup)
    for hierarchy in cgroups.hierarchies:
        directory = hierarchy.mount
        for part in relative.parts:
            parent, directory = directory, directory / part
            if hierarchy.version == 2:
                _enable(parent, hierarchy.controllers)
            with translated("make cgroup", directory):
                directory.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
                _inherit_cpuset(parent, directory)


def _enable(directory: Path, controllers: frozenset[str]) -> None:
    missing = controllers - frozenset(_text(directory / "cgroup.subtree_control").split())
    for controller in sorted(missing):
        # One by one: a controller that can't be enabled (cpu with realtime processes about) must not cost the others.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpuset(parent: Path, directory: Path) -> None:
    # An empty v1 cpuset takes no process at all.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _text(directory / name):
            with translated("fill in cpuset", directory / name):
                (directory / name).write_text(_text(parent / name))


def processes(cgroups: Cgroups, cgroup: str) -> set[int]:
    """The ids of all processes in a cgroup and below it, in any hierarchy."""
    found: set[int] = set()
    for directory in cgroups.paths(cgroup):
        for below, _, _ in os.walk(directory):
            found.update(int(pid) for pid in _text(Path(below) / "cgroup.procs").split())
    return found - {0}


async def kill(cgroups: Cgroups, cgroup: str, *, timeout: float = 10.0) -> bool:
    """SIGKILL every process of a cgroup and below until none is left; False when some outlive `timeout` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    for directory in cgroups.paths(cgroup):
        # cgroup.kill (Linux 5.14) is atomic: a fork bomb can't outrun it.
        with contextlib.suppress(OSError):
            (directory / "cgroup.kill").write_text("1")
    while left := processes(cgroups, cgroup) - {os.getpid()}:
        if asyncio.get_running_loop().time() > deadline:
            return False
        _kill_members(cgroups, cgroup, left)
        await asyncio.sleep(_RETRY_SECONDS)
    return True


def _kill_members(cgroups: Cgroups, cgroup: str, pids: set[int]) -> None:
    with contextlib.ExitStack() as stack:
        pidfds: dict[int, int] = {}
        for pid in pids:
            if (fd := pidfd_open(pid)) is not None:
                pidfds[pid] = fd
                stack.callback(os.close, fd)
        # Still a member now that the descriptor is held: it can't be another process that got the same id.
        for pid in processes(cgroups, cgroup) & pidfds.keys():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfds[pid], signal.SIGKILL)


async def remove(cgroups: Cgroups, cgroup: str, *, timeout: float = 5.0) -> bool:
    """Remove a cgroup and all below it from all hierarchies; False when there was none.

    The kernel says EBUSY for a moment after the last process ended: retried until `timeout` seconds are over, then
    FailedPrecondition PATH_BUSY (processes are left: `kill` first).
    """
    if not _relative(cgroup).parts:
        raise InvalidArgument("the root cgroup can't be removed", reason="INVALID_CGROUP")
    deadline = asyncio.get_running_loop().time() + timeout
    removed = False
    left = [directory for directory in cgroups.paths(cgroup) if directory.exists()]
    while left:
        removed = True
        try:
            # In a thread: one lock of the kernel's orders all changes to cgroups of the machine.
            await in_thread(lambda: _rmdir_trees(left))
        except OSError as error:
            if error.errno != errno.EBUSY or asyncio.get_running_loop().time() > deadline:
                raise failure("remove cgroup", error.errno or 0, path=left[0]) from error
            await asyncio.sleep(_RETRY_SECONDS)
    return removed


def _rmdir_trees(left: list[Path]) -> None:
    """Remove each, and take it out of the list."""
    while left:
        for below, _, _ in os.walk(left[0], topdown=False):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(below)
        left.pop(0)


def _text(path: Path) -> str:
    """A control file's text, "" when it does not exist (the controller is missing, the cgroup is gone)."""
    try:
        return path.read_text().strip()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTDIR):
            return ""
        raise failure("read", error.errno or 0, path=path) from error
