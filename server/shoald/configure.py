"""From what the launcher prepared to the OCI configuration: the host's side of the specification, found out once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import FailedPrecondition
from shoald.containers.admission import Admission, host_limits
from shoald.containers.launcher import Prepared
from shoald.containers.places import Placed
from shoald.host.cgroups import Cgroups
from shoald.host.kernel import kernel_version
from shoald.host.seccomp import DEFAULT_PROFILE, load_profile, tightened
from shoald.runtime.masked import thermal_paths
from shoald.runtime.mounts import RECURSIVE_READ_ONLY_KERNEL, ContainerFiles, HostMount
from shoald.runtime.security import UNCONFINED
from shoald.runtime.spec import SpecInput, runtime_config

INIT_PROGRAMS = ("catatonit", "tini-static", "tini", "docker-init")
"""Programs for `--init`, the best first."""


def seccomp_of(profile: str) -> tuple[Mapping[str, Any] | None, str]:
    """The profile for containers, and a warning ("" for none).

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
    return loaded.document if profile else tightened(loaded.document), loaded.warning


class SpecMaker:
    """Makes OCI configurations for this host."""

    def __init__(
        self,
        *,
        cgroup_parent: str,
        userns_size: int,
        seccomp: Mapping[str, Any] | None,
        init_path: str,
        host: Cgroups,
        cdi_directories: Sequence[Path],
    ) -> None:
        self._cgroup_parent = cgroup_parent.rstrip("/")
        self._userns_size = userns_size
        self._init_path = init_path
        self._limits = self.limits = host_limits(host)
        self._masked = thermal_paths()
        self._recursive_read_only = kernel_version() >= RECURSIVE_READ_ONLY_KERNEL
        self.admission = Admission(self._limits, seccomp, cdi_directories)

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
        user_namespace = container.userns_base > 0
        return runtime_config(
            SpecInput(
                container=container,
                user=prepared.user,
                rootfs=str(prepared.rootfs),
                cgroup_path=f"{self._cgroup_parent}/{container.id}",
                mounts=[_host_mount(place) for place in prepared.places],
                files=ContainerFiles(
                    resolv_conf=str(etc.resolv_conf or ""), hostname=str(etc.hostname or ""), hosts=str(etc.hosts or "")
                ),
                userns_size=self._userns_size,
                seccomp=self.admission.seccomp(container.spec, user_namespace=user_namespace),
                init_path=self._init_path,
                limits=self._limits,
                masked_paths=self._masked,
                recursive_read_only=self._recursive_read_only,
                capabilities=self.admission.capabilities(user_namespace=user_namespace),
                joined=prepared.joined,
                equipment=prepared.equipment,
                device_sources=prepared.device_sources,
                shm_source=prepared.shm_source,
            )
        )


def _host_mount(place: Placed) -> HostMount:
    mount = place.mount
    return HostMount(
        kind=mount.kind,
        target=mount.target,
        source=place.source,
        read_only=mount.read_only or "ro" in place.options,
        options=tuple(option for option in place.options if option != "ro"),
        tmpfs_size_bytes=mount.tmpfs_size_bytes,
        tmpfs_mode=mount.tmpfs_mode,
        tmpfs_options=mount.tmpfs_options,
        propagation=mount.propagation or "rprivate",
        single_file=os.path.isfile(place.source),
    )
