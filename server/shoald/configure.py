"""From what the launcher prepared to the OCI configuration: the host's side of the specification, found out once."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import FailedPrecondition
from shoald.containers.launcher import Prepared
from shoald.host.cgroups import Cgroups
from shoald.host.kernel import kernel_version
from shoald.host.seccomp import DEFAULT_PROFILE, linux_seccomp, load_profile, tightened
from shoald.model.container import Resources
from shoald.runtime.capabilities import DEFAULT_CAPABILITIES
from shoald.runtime.masked import thermal_paths
from shoald.runtime.mounts import RECURSIVE_READ_ONLY_KERNEL, ContainerFiles, HostMount
from shoald.runtime.resources import HostLimits, unenforced
from shoald.runtime.spec import SpecInput, runtime_config

UNCONFINED = "unconfined"
INIT_PROGRAMS = ("catatonit", "tini-static", "tini", "docker-init")
"""Programs for `--init`, the best first."""
_CAP_SYS_RESOURCE = 24


def seccomp_of(profile: str) -> tuple[Mapping[str, Any] | None, str]:
    """The filter for containers with default capabilities, and a warning ("" for none).

    `profile` is a path, "" for the default (tightened), "unconfined" for none. Raises FailedPrecondition
    (NO_SECCOMP_PROFILE): no container runs without a filter unless the configuration says so.
    """
    if profile == UNCONFINED:
        return None, "containers run without a seccomp filter: runtime.seccomp_profile is unconfined"
    loaded = load_profile(Path(profile) if profile else DEFAULT_PROFILE)
    if loaded.document is None:
        raise FailedPrecondition(
            loaded.warning,
            reason="NO_SECCOMP_PROFILE",
            hint='to run containers without a filter, set runtime.seccomp_profile to "unconfined"',
        )
    document = loaded.document if profile else tightened(loaded.document)
    return linux_seccomp(document, DEFAULT_CAPABILITIES, os.uname().machine, kernel_version()), loaded.warning


class SpecMaker:
    """Makes OCI configurations for this host."""

    def __init__(
        self, *, cgroup_parent: str, userns_size: int, seccomp: Mapping[str, Any] | None, init_path: str, host: Cgroups
    ) -> None:
        self._cgroup_parent = cgroup_parent.rstrip("/")
        self._userns_size = userns_size
        self._seccomp = seccomp
        self._init_path = init_path
        self._limits = _limits(host)
        self._masked = thermal_paths()
        self._recursive_read_only = kernel_version() >= RECURSIVE_READ_ONLY_KERNEL

    def configure(self, prepared: Prepared) -> dict[str, Any]:
        """The configuration. Raises InvalidArgument, FailedPrecondition (NO_INIT)."""
        container = prepared.container
        if container.spec.init and not self._init_path:
            raise FailedPrecondition(
                "no init program for --init",
                reason="NO_INIT",
                hint="apt-get install catatonit, or set runtime.init_path",
            )
        etc = prepared.etc
        return runtime_config(
            SpecInput(
                container=container,
                user=prepared.user,
                rootfs=str(prepared.rootfs),
                cgroup_path=f"{self._cgroup_parent}/{container.id}",
                mounts=[
                    HostMount(
                        kind=place.mount.kind,
                        target=place.mount.target,
                        source=place.source,
                        read_only=place.mount.read_only,
                        tmpfs_size_bytes=place.mount.tmpfs_size_bytes,
                        tmpfs_mode=place.mount.tmpfs_mode,
                        single_file=os.path.isfile(place.source),
                    )
                    for place in prepared.places
                ],
                files=ContainerFiles(
                    resolv_conf=str(etc.resolv_conf or ""), hostname=str(etc.hostname or ""), hosts=str(etc.hosts or "")
                ),
                userns_size=self._userns_size,
                seccomp=self._seccomp,
                init_path=self._init_path,
                limits=self._limits,
                masked_paths=self._masked,
                recursive_read_only=self._recursive_read_only,
            )
        )

    def unenforced(self, limits: Resources) -> list[str]:
        """What of these limits this host can't enforce, for people."""
        return list(unenforced(limits, self._limits))


def _limits(host: Cgroups) -> HostLimits:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = host.path("/", "memory")
    swap = memory is not None and (
        (memory / "memory.memsw.limit_in_bytes").exists() or Path("/sys/fs/cgroup/cgroup.controllers").exists()
    )
    return HostLimits(controllers=host.controllers, swap=swap, nofile_hard=None if _may_raise_limits() else hard)


def _may_raise_limits() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False
