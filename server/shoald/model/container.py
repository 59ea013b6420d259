"""What the daemon knows of a container: the request as resolved (`ContainerSpec`) and the record (`Container`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field


class ContainerState(StrEnum):
    """State of a container; `CREATING` is internal: after a crash it is undone by recover()."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


class PullPolicy(StrEnum):
    """When `run` pulls."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class RestartPolicyName(StrEnum):
    """Docker's restart policies."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


class RestartPolicy(Struct, frozen=True):
    """`max_retries` counts only with ON_FAILURE; 0: no limit."""

    name: RestartPolicyName = RestartPolicyName.NO
    max_retries: int = 0


class PortMapping(Struct, frozen=True):
    """A published port; protocol "tcp" or "udp". `host_ip` empty and `host_port` 0 only before they are resolved."""

    container_port: int
    host_ip: str = ""
    host_port: int = 0
    protocol: str = "tcp"


class MountKind(StrEnum):
    """Kinds of `-v`, `--mount` and `--tmpfs`."""

    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"


class Mount(Struct, frozen=True):
    """A mount in the container. `source`: host path (BIND) or volume name (VOLUME). Sizes in bytes; mode as in
    chmod."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    anonymous: bool = False
    """A volume that was made for this container only and goes with it (`--rm`, `rm -v`)."""


class Resources(Struct, frozen=True):
    """Limits; 0: none (pids: the host's default, -1: none). Memory in bytes, CPUs in billionths."""

    memory_bytes: int = 0
    nano_cpus: int = 0
    pids_limit: int = 0


class ContainerSpec(Struct, frozen=True):
    """What the caller asked for; mirrors shoal.v1.ContainerSpec. None and "" mean: as the image says."""

    image: str
    name: str = ""
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    """None: the image's; an empty tuple: none."""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    network: str = "bridge"
    """bridge, host or none."""
    ports: tuple[PortMapping, ...] = ()
    mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    init: bool = False
    stop_signal: str = ""
    stop_timeout_s: float | None = None
    userns: str = ""
    """"" for a user namespace of its own, or "host"."""
    platform: str = ""


class Process(Struct, frozen=True):
    """The first process of a container, resolved from image and request."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    """As given: resolved to numbers inside the root file system when it is mounted."""


class Container(Struct, frozen=True):
    """The record of a container, as stored. Times are UTC."""

    id: str
    """64 hex digits."""
    name: str
    request_id: str
    spec: ContainerSpec
    """As asked, with anonymous volumes named."""
    image_id: str
    process: Process
    state: ContainerState
    created_at: datetime
    userns_base: int
    """First host id of its user namespace; 0: the host's own namespace."""
    snapshot_id: str
    """The writable layer."""
    hostname: str
    stop_signal: int
    stop_timeout_s: float
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    pid: int = 0
    """Host pid of the first process while it runs, else 0."""
    pid_start_time: int = 0
    """Field 22 of /proc/PID/stat: tells a reused pid."""
    ip_address: str = ""
    """While it runs on a bridge, else empty."""
    ports: tuple[PortMapping, ...] = ()
    """Published ports with the addresses and numbers in use; empty unless it runs."""
    log_start: int = 0
    """Bytes of the log that earlier runs wrote: output of this run begins there."""
    restart_count: int = 0
    stopped_by_user: bool = False
    """The restart policy does not apply until the next start."""
    remove_volumes: bool = False
    """Of one that is being removed: its anonymous volumes go with it."""
