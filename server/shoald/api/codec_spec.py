"""Proto <-> domain for what a container is to be, with all checks that need no more than the request itself."""

from __future__ import annotations

import ipaddress
import re

from shoal.platform import Platform
from shoal.v1 import container_pb2 as pb
from shoald.api.checks import invalid, required
from shoald.api.codec_common import duration, platform, platform_of, seconds_of
from shoald.api.codec_mounts import KIND_NUMBERS, mounts_of
from shoald.model.container import (
    BlkioLimit,
    ContainerSpec,
    Device,
    HealthCheck,
    LogConfig,
    Membership,
    Mount,
    MountKind,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartPolicyName,
    Ulimit,
)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?")
_NETWORK = re.compile(r"(container:)?[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[^=]+=.*", re.DOTALL)
_MAX_PORT = 65535
_BLKIO_LIMITS = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")

_POLICIES = {
    pb.RESTART_POLICY_NAME_UNSPECIFIED: RestartPolicyName.NO,
    pb.RESTART_POLICY_NAME_NO: RestartPolicyName.NO,
    pb.RESTART_POLICY_NAME_ON_FAILURE: RestartPolicyName.ON_FAILURE,
    pb.RESTART_POLICY_NAME_ALWAYS: RestartPolicyName.ALWAYS,
    pb.RESTART_POLICY_NAME_UNLESS_STOPPED: RestartPolicyName.UNLESS_STOPPED,
}
_POLICY_NUMBERS = {name: number for number, name in _POLICIES.items()}
_PROTOCOLS = {
    pb.PortMapping.PROTOCOL_UNSPECIFIED: "tcp",
    pb.PortMapping.PROTOCOL_TCP: "tcp",
    pb.PortMapping.PROTOCOL_UDP: "udp",
}
_PROTOCOL_NUMBERS = {name: number for number, name in _PROTOCOLS.items()}


def spec_of(message: pb.ContainerSpec) -> ContainerSpec:
    """The request as a domain record. Raises InvalidArgument (INVALID_FIELD, INVALID_PLATFORM)."""
    _check_texts(message)
    policy = policy_of(message.restart_policy)
    if message.auto_remove and policy.name is not RestartPolicyName.NO:
        raise invalid("spec.auto_remove", "can't be combined with a restart policy")
    wanted = platform_of(message.platform)
    return ContainerSpec(
        image=required("spec.image", message.image),
        name=message.name,
        command=tuple(message.command),
        entrypoint=tuple(message.entrypoint) if message.entrypoint_set or message.entrypoint else None,
        env=tuple(message.env),
        working_dir=message.working_dir,
        user=message.user,
        hostname=message.hostname,
        labels=dict(message.labels),
        tty=message.tty,
        stdin_open=message.stdin_open,
        read_only=message.read_only,
        network=message.network or "bridge",
        ports=_ports_of(message),
        mounts=mounts_of(message),
        resources=_resources_of(message.resources),
        restart_policy=policy,
        auto_remove=message.auto_remove,
        init=message.init,
        stop_signal=message.stop_signal,
        stop_timeout_s=seconds_of("spec.stop_timeout", message.stop_timeout)
        if message.HasField("stop_timeout")
        else None,
        userns=message.userns,
        platform=str(wanted) if wanted else "",
        health_check=health_check_of(message.health_check),
        cap_add=tuple(message.cap_add),
        cap_drop=tuple(message.cap_drop),
        privileged=message.privileged,
        security_options=tuple(message.security_options),
        group_add=tuple(message.group_add),
        pid_mode=message.pid_mode,
        ipc_mode=message.ipc_mode,
        uts_mode=message.uts_mode,
        cgroupns_mode=message.cgroupns_mode,
        domainname=message.domainname,
        extra_hosts=tuple(message.extra_hosts),
        dns=tuple(message.dns),
        dns_search=tuple(message.dns_search),
        dns_options=tuple(message.dns_options),
        mac_address=message.mac_address,
        ip_address=message.ip_address,
        ip6_address=message.ip6_address,
        network_aliases=tuple(message.network_aliases),
        more_networks=tuple(
            Membership(each.network, each.ip_address, each.ip6_address, each.mac_address, tuple(each.aliases))
            for each in message.more_networks
        ),
        ulimits=tuple(Ulimit(each.name, each.soft, each.hard) for each in message.ulimits),
        sysctls=dict(message.sysctls),
        devices=tuple(
            Device(each.path_on_host, each.path_in_container, each.permissions or "rwm") for each in message.devices
        ),
        device_cgroup_rules=tuple(message.device_cgroup_rules),
        cdi_devices=tuple(message.cdi_devices),
        shm_size_bytes=message.shm_size_bytes,
        log=LogConfig(message.log.driver or "local", dict(message.log.options)),
        annotations=dict(message.annotations),
        oom_score_adj=message.oom_score_adj,
        publish_all=message.publish_all_ports,
        exposed_ports=tuple(message.exposed_ports),
    )


def health_check_of(message: pb.HealthCheck) -> HealthCheck:
    """The request's health check; an empty one stands for the image's."""
    times = {
        f"{name}_s": seconds_of(f"spec.health_check.{name}", getattr(message, name)) if message.HasField(name) else 0.0
        for name in ("interval", "timeout", "start_period", "start_interval")
    }
    return HealthCheck(test=tuple(message.test), retries=message.retries, **times)


def _check_texts(message: pb.ContainerSpec) -> None:
    if message.name and not _NAME.fullmatch(message.name):
        raise invalid("spec.name", f"{message.name[:80]!r} is not a name: [a-zA-Z0-9][a-zA-Z0-9_.-]*, 128 at most")
    if message.hostname and not _HOSTNAME.fullmatch(message.hostname):
        raise invalid(
            "spec.hostname", f"{message.hostname[:80]!r} is not a host name: letters, digits, . and -, 64 at most"
        )
    if message.working_dir and not message.working_dir.startswith("/"):
        raise invalid("spec.working_dir", f"{message.working_dir[:80]!r} is not an absolute path")
    if message.network and not _NETWORK.fullmatch(message.network):
        raise invalid("spec.network", f"{message.network[:80]!r} is neither a network's name nor container:<name>")
    if message.userns not in ("", "host"):
        raise invalid("spec.userns", f"{message.userns[:80]!r} is neither empty nor host")
    for variable in message.env:
        if not _VARIABLE.fullmatch(variable):
            raise invalid("spec.env", f"{variable[:80]!r} is not KEY=value")
    if "" in message.labels:
        raise invalid("spec.labels", "a label has no key")


def policy_of(message: pb.RestartPolicy) -> RestartPolicy:
    """Raises InvalidArgument (INVALID_FIELD)."""
    name = _POLICIES[message.name]
    if message.max_retries < 0 or (message.max_retries and name is not RestartPolicyName.ON_FAILURE):
        raise invalid("spec.restart_policy.max_retries", "must be 0 or more, and goes with on-failure only")
    return RestartPolicy(name, message.max_retries)


def _ports_of(message: pb.ContainerSpec) -> tuple[PortMapping, ...]:
    if message.ports and (message.network in ("host", "none") or message.network.startswith("container:")):
        raise invalid("spec.ports", f"ports can't be published with the network {message.network}")
    return tuple(_port_of(port) for port in message.ports)


def _port_of(message: pb.PortMapping) -> PortMapping:
    if not 1 <= message.container_port <= _MAX_PORT:
        raise invalid("spec.ports.container_port", f"{message.container_port} is not 1 to {_MAX_PORT}")
    if message.host_port > _MAX_PORT:
        raise invalid("spec.ports.host_port", f"{message.host_port} is not 0 to {_MAX_PORT}")
    if message.host_ip:
        try:
            ipaddress.ip_address(message.host_ip)
        except ValueError:
            raise invalid("spec.ports.host_ip", f"{message.host_ip[:80]!r} is not an IP address") from None
    return PortMapping(message.container_port, message.host_ip, message.host_port, _PROTOCOLS[message.protocol])


def _resources_of(message: pb.Resources) -> Resources:
    if message.memory_bytes < 0:
        raise invalid("spec.resources.memory_bytes", "must be 0 (no limit) or more")
    if message.nano_cpus < 0:
        raise invalid("spec.resources.nano_cpus", "must be 0 (no limit) or more")
    if message.pids_limit < -1:
        raise invalid("spec.resources.pids_limit", "must be -1 (no limit), 0 (the host's default) or more")
    limits = {
        name: tuple(BlkioLimit(each.path, each.rate) for each in getattr(message, name)) for name in _BLKIO_LIMITS
    }
    return Resources(
        memory_bytes=message.memory_bytes,
        nano_cpus=message.nano_cpus,
        pids_limit=message.pids_limit,
        memory_swap_bytes=message.memory_swap_bytes,
        memory_reservation_bytes=message.memory_reservation_bytes,
        memory_swappiness=message.memory_swappiness if message.HasField("memory_swappiness") else None,
        oom_kill_disable=message.oom_kill_disable,
        cpu_shares=message.cpu_shares,
        cpu_period=message.cpu_period,
        cpu_quota=message.cpu_quota,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        blkio_weight=message.blkio_weight,
        **limits,
    )


def spec(value: ContainerSpec) -> pb.ContainerSpec:
    """As a message."""
    message = pb.ContainerSpec(
        name=value.name,
        image=value.image,
        command=value.command,
        entrypoint=value.entrypoint or (),
        entrypoint_set=value.entrypoint is not None,
        env=value.env,
        working_dir=value.working_dir,
        user=value.user,
        hostname=value.hostname,
        labels=value.labels,
        tty=value.tty,
        stdin_open=value.stdin_open,
        read_only=value.read_only,
        network=value.network,
        ports=[port(each) for each in value.ports],
        mounts=[_mount(each) for each in value.mounts],
        resources=resources(value.resources),
        restart_policy=pb.RestartPolicy(
            name=_POLICY_NUMBERS[value.restart_policy.name], max_retries=value.restart_policy.max_retries
        ),
        auto_remove=value.auto_remove,
        init=value.init,
        stop_signal=value.stop_signal,
        userns=value.userns,
        platform=platform(Platform.parse(value.platform)) if value.platform else None,
        health_check=health_check(value.health_check),
        cap_add=value.cap_add,
        cap_drop=value.cap_drop,
        privileged=value.privileged,
        security_options=value.security_options,
        group_add=value.group_add,
        pid_mode=value.pid_mode,
        ipc_mode=value.ipc_mode,
        uts_mode=value.uts_mode,
        cgroupns_mode=value.cgroupns_mode,
        domainname=value.domainname,
        extra_hosts=value.extra_hosts,
        dns=value.dns,
        dns_search=value.dns_search,
        dns_options=value.dns_options,
        mac_address=value.mac_address,
        ip_address=value.ip_address,
        ip6_address=value.ip6_address,
        network_aliases=value.network_aliases,
        more_networks=[
            pb.NetworkMembership(
                network=each.network,
                ip_address=each.ip_address,
                ip6_address=each.ip6_address,
                mac_address=each.mac_address,
                aliases=each.aliases,
            )
            for each in value.more_networks
        ],
        ulimits=[pb.Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in value.ulimits],
        sysctls=value.sysctls,
        devices=[
            pb.Device(
                path_on_host=each.path_on_host,
                path_in_container=each.path_in_container,
                permissions=each.permissions,
            )
            for each in value.devices
        ],
        device_cgroup_rules=value.device_cgroup_rules,
        cdi_devices=value.cdi_devices,
        shm_size_bytes=value.shm_size_bytes,
        log=pb.LogConfig(driver=value.log.driver, options=value.log.options),
        annotations=value.annotations,
        oom_score_adj=value.oom_score_adj,
        publish_all_ports=value.publish_all,
        exposed_ports=value.exposed_ports,
    )
    if value.stop_timeout_s is not None:
        message.stop_timeout.CopyFrom(duration(value.stop_timeout_s))
    return message


def health_check(value: HealthCheck) -> pb.HealthCheck:
    """As a message."""
    message = pb.HealthCheck(test=value.test, retries=value.retries)
    for name in ("interval", "timeout", "start_period", "start_interval"):
        seconds = getattr(value, f"{name}_s")
        if seconds:
            getattr(message, name).CopyFrom(duration(seconds))
    return message


def resources(value: Resources) -> pb.Resources:
    """As a message."""
    message = pb.Resources(
        memory_bytes=value.memory_bytes,
        nano_cpus=value.nano_cpus,
        pids_limit=value.pids_limit,
        memory_swap_bytes=value.memory_swap_bytes,
        memory_reservation_bytes=value.memory_reservation_bytes,
        memory_swappiness=value.memory_swappiness,
        oom_kill_disable=value.oom_kill_disable,
        cpu_shares=value.cpu_shares,
        cpu_period=value.cpu_period,
        cpu_quota=value.cpu_quota,
        cpuset_cpus=value.cpuset_cpus,
        cpuset_mems=value.cpuset_mems,
        blkio_weight=value.blkio_weight,
    )
    for name in _BLKIO_LIMITS:
        getattr(message, name).extend(pb.BlkioLimit(path=each.path, rate=each.rate) for each in getattr(value, name))
    return message


def port(value: PortMapping) -> pb.PortMapping:
    """As a message."""
    return pb.PortMapping(
        host_ip=value.host_ip,
        host_port=value.host_port,
        container_port=value.container_port,
        protocol=_PROTOCOL_NUMBERS[value.protocol],
    )


def _mount(value: Mount) -> pb.Mount:
    return pb.Mount(
        kind=KIND_NUMBERS[value.kind],
        source=value.source,
        target=value.target,
        read_only=value.read_only,
        tmpfs_size_bytes=value.tmpfs_size_bytes,
        tmpfs_mode=value.tmpfs_mode,
        propagation=value.propagation,
        tmpfs_options=value.tmpfs_options,
        no_copy=value.no_copy,
        subpath=value.subpath,
        volume_labels=value.volume_labels,
        volume_options=value.volume_options,
        # A secret's handle is no one's business.
        content_digest=value.content_digest if value.kind is MountKind.CONTENT else "",
    )
