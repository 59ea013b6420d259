"""What a host is."""

from __future__ import annotations

from msgspec import Struct

from shoal.platform import Platform


class HostInfo(Struct, frozen=True):
    """See shoal.v1.SystemServiceInfoResponse."""

    host_id: str
    hostname: str
    operating_system: str
    kernel_version: str
    platform: Platform
    cpus: int
    memory_bytes: int
    data_root: str
    cgroup_mode: str
    runtime: str
    containers_running: int
    containers_stopped: int
    images: int
    disk_free_bytes: int
    disk_total_bytes: int
    warnings: tuple[str, ...]
    version: str


class HostVersion(Struct, frozen=True):
    """See shoal.v1.SystemServiceVersionResponse."""

    version: str
    python_version: str
    kernel_version: str
    runtime: str
    conmon: str
    platform: Platform
