"""What an update of a container changes."""

from __future__ import annotations

from msgspec import Struct

from shoald.model.container import RestartPolicy


class ContainerChange(Struct, frozen=True):
    """None: stays as it is. A limit of -1 is taken away."""

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: int | None = None
    blkio_weight: int | None = None
    restart_policy: RestartPolicy | None = None
