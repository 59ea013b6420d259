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
    PAUSED = "paused"


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
    CONTENT = "content"
    SECRET = "secret"


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
    propagation: str = ""
    tmpfs_options: tuple[str, ...] = ()
    no_copy: bool = False
    subpath: str = ""
    volume_labels: Mapping[str, str] = field(default_factory=dict)
    volume_options: Mapping[str, str] = field(default_factory=dict)
    owner: tuple[int, int] | None = None
    """SECRET: user and group in the container; None: the container's own user."""
    content_digest: str = ""
    """CONTENT: digest of a tree of the client's files. SECRET: the handle of a secret."""


class BlkioLimit(Struct, frozen=True):
    """A limit of one block device of the host, in bytes or operations a second."""

    path: str
    rate: int


class Ulimit(Struct, frozen=True):
    """A resource limit of setrlimit(2) by its name without RLIMIT_, in lower case; -1: none."""

    name: str
    soft: int
    hard: int


class Device(Struct, frozen=True):
    """A device of the host in the container; permissions of "rwm"."""

    path_on_host: str
    path_in_container: str = ""
    permissions: str = "rwm"


class LogConfig(Struct, frozen=True):
    """Where output goes: "local", "journald" or "none", with the driver's options."""

    driver: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)


class HealthCheck(Struct, frozen=True):
    """How health is found out; times in seconds, 0: Docker's default (30, 30, 0, 5), retries 0: 3."""

    test: tuple[str, ...] = ()
    """("NONE",), ("CMD", args...) or ("CMD-SHELL", line); empty: the image's."""
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    start_interval_s: float = 0.0
    retries: int = 0


class HealthStatus(StrEnum):
    """Of a container with a health check."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthProbe(Struct, frozen=True):
    """One run of a health check. Times are UTC."""

    start: datetime
    end: datetime
    exit_code: int
    output: str


class Health(Struct, frozen=True):
    """The health of a container; the last five probes, the oldest first."""

    status: HealthStatus
    failing_streak: int = 0
    log: tuple[HealthProbe, ...] = ()


class Resources(Struct, frozen=True):
    """Limits; 0: none (pids: the host's default, -1: none). Memory in bytes, CPUs in billionths."""

    memory_bytes: int = 0
    nano_cpus: int = 0
    pids_limit: int = 0
    memory_swap_bytes: int = 0
    """Memory and swap together; -1: no limit."""
    memory_reservation_bytes: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpu_shares: int = 0
    cpu_period: int = 0
    """Microseconds, as cpu_quota."""
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    blkio_weight: int = 0
    device_read_bps: tuple[BlkioLimit, ...] = ()
    device_write_bps: tuple[BlkioLimit, ...] = ()
    device_read_iops: tuple[BlkioLimit, ...] = ()
    device_write_iops: tuple[BlkioLimit, ...] = ()


class Membership(Struct, frozen=True):
    """A container's place in a network, whether it runs or not; addresses only where they were asked for."""

    network: str
    """In a request its name, in a record its id."""
    ip_address: str = ""
    ip6_address: str = ""
    mac_address: str = ""
    aliases: tuple[str, ...] = ()


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
    """bridge, host, none, container:<id> or the name of a network."""
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
    health_check: HealthCheck = HealthCheck()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    security_options: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = ""
    domainname: str = ""
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    mac_address: str = ""
    ip_address: str = ""
    ip6_address: str = ""
    network_aliases: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    shm_size_bytes: int = 0
    log: LogConfig = LogConfig()
    annotations: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int = 0
    more_networks: tuple[Membership, ...] = ()
    """After `network`."""
    publish_all: bool = False
    exposed_ports: tuple[str, ...] = ()
    """As in EXPOSE: "80", "7000-7002/udp"."""


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
    log_cursor: str = ""
    """The end of what earlier runs wrote to the log: output of this run begins there. Empty: at the log's beginning."""
    restart_count: int = 0
    restart_delay_s: float = 0.0
    """The last back-off of its restart policy; 0: none yet."""
    health_check: HealthCheck | None = None
    """The check that holds: request and image together, all times filled in; None: it has none."""
    shell: tuple[str, ...] = ()
    """The image's SHELL, for lines of its health check; empty: /bin/sh -c."""
    health: Health | None = None
    """None: it has no health check, or never ran."""
    stopped_by_user: bool = False
    """The restart policy does not apply until the next start."""
    made_to_wait: bool = False
    """It was made without being started, and waits for that."""
    remove_volumes: bool = False
    """Of one that is being removed: its anonymous volumes go with it."""
