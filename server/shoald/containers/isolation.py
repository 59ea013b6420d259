"""What a request says of a container's isolation: whether it makes sense, and whether it needs the role admin; pure."""

from __future__ import annotations

import ipaddress
import re

from shoal.errors import InvalidArgument
from shoald.containers.exposed import parse_exposed
from shoald.containers.health_check import check_health_check
from shoald.model.container import ContainerSpec, MountKind
from shoald.runtime.annotations import check_annotations
from shoald.runtime.capabilities import beyond_default, bounding_set
from shoald.runtime.devices import check_permissions, parse_rule
from shoald.runtime.mounts import mount_target, tmpfs_option
from shoald.runtime.namespaces import HOST, JOIN, check_modes, hosts, own
from shoald.runtime.security import BUILTIN, security_options
from shoald.runtime.sysctls import check_sysctls
from shoald.runtime.ulimits import check_ulimits

HOST_GATEWAY = "host-gateway"
_HOST_NAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,252}[a-zA-Z0-9_])?\.?")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_WORD = re.compile(r"[!-~]{1,253}")
_GROUP = re.compile(r"[^\s:,]{1,255}")
_CDI = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*/[a-zA-Z0-9][a-zA-Z0-9_.-]*=[a-zA-Z0-9][a-zA-Z0-9_.:-]*")
_DNS_SERVERS = 16


def needs_admin(spec: ContainerSpec) -> str | None:
    """Of what a request asks for the first thing that only an administrator may have, for people; None when there is
    none. Whatever makes containers asks here. Raises InvalidArgument for options that can't be understood."""
    options = security_options(spec.security_options)
    beyond = beyond_default(spec.cap_add)
    paths = [mount.source for mount in spec.mounts if mount.kind is MountKind.BIND]
    asked = {
        # Written to as root, a host path is as good as the host; so is its network, where services trust who is local.
        f"a path of the host ({', '.join(paths)})": bool(paths),
        "the host's network (network=host)": spec.network == HOST,
        "a container without a user namespace of its own (userns=host)": spec.userns == HOST,
        "a privileged container": spec.privileged,
        "the host's processes (pid=host)": spec.pid_mode == HOST,
        "the host's IPC (ipc=host)": spec.ipc_mode == HOST,
        "the host's host name (uts=host)": spec.uts_mode == HOST,
        "the host's cgroups (cgroupns=host)": spec.cgroupns_mode == HOST,
        "a device of the host": bool(spec.devices),
        "a device cgroup rule": bool(spec.device_cgroup_rules),
        "a CDI device": bool(spec.cdi_devices),
        f"the capability {', '.join(beyond)}": bool(beyond),
        # A profile of the caller's own may allow everything.
        "a seccomp profile other than the host's": options.seccomp not in ("", BUILTIN),
        "unmasked system paths": not options.system_paths,
    }
    return next((what for what, wanted in asked.items() if wanted), None)


def check_isolation(spec: ContainerSpec) -> None:
    """Refuse what can never work. Raises InvalidArgument."""
    bounding_set(spec.cap_add, spec.cap_drop)
    security_options(spec.security_options)
    check_modes(spec)
    check_sysctls(spec)
    check_ulimits(spec.ulimits)
    check_annotations(spec.annotations)
    check_health_check(spec.health_check)
    for text in spec.exposed_ports:
        parse_exposed(text)
    if spec.publish_all and (spec.network in (HOST, "none") or spec.network.startswith(JOIN)):
        raise InvalidArgument(f"ports can't be published with network {spec.network}", reason="INVALID_PORTS")
    _check_devices(spec)
    _check_names(spec)
    _check_conflicts(spec)
    for mount in spec.mounts:
        for option in mount.tmpfs_options:
            tmpfs_option(option)
    for group in spec.group_add:
        if not _GROUP.fullmatch(group):
            raise InvalidArgument(f"invalid group {group!r}", reason="INVALID_GROUP", hint="a name or a number")
    if spec.shm_size_bytes < 0:
        raise InvalidArgument("SHM size can not be less than 0", reason="INVALID_SHM_SIZE")
    if not -1000 <= spec.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"invalid oom score adjustment {spec.oom_score_adj}: valid is -1000 to 1000", reason="INVALID_OOM_SCORE"
        )


def _check_devices(spec: ContainerSpec) -> None:
    for device in spec.devices:
        check_permissions(device.permissions)
        for path in (device.path_on_host, device.path_in_container or "/dev/null"):
            if not path.startswith("/") or "\0" in path or ".." in path.split("/") or not path.strip("/"):
                raise InvalidArgument(f"invalid device path {path!r}: it must be absolute", reason="INVALID_DEVICE")
        mount_target(device.path_in_container or device.path_on_host)
    for rule in spec.device_cgroup_rules:
        parse_rule(rule)
    for name in spec.cdi_devices:
        if not _CDI.fullmatch(name):
            raise InvalidArgument(
                f"invalid CDI device {name!r}", reason="INVALID_CDI_DEVICE", hint="for example vendor.com/gpu=all"
            )


def _check_names(spec: ContainerSpec) -> None:
    if spec.domainname and not _HOST_NAME.fullmatch(spec.domainname):
        raise InvalidArgument(f"invalid domain name {spec.domainname!r}", reason="INVALID_HOSTNAME")
    for entry in spec.extra_hosts:
        parse_extra_host(entry)
    if len(spec.dns) > _DNS_SERVERS:
        raise InvalidArgument(f"more than {_DNS_SERVERS} DNS servers", reason="INVALID_DNS")
    for server in spec.dns:
        if _address(server) is None:
            raise InvalidArgument(f"{server!r} is not an IP address", reason="INVALID_DNS")
    for domain in spec.dns_search:
        if domain != "." and not _HOST_NAME.fullmatch(domain):
            raise InvalidArgument(f"{domain!r} is not a valid search domain", reason="INVALID_DNS")
    for option in spec.dns_options:
        if not _WORD.fullmatch(option):
            raise InvalidArgument(f"invalid DNS option {option!r}", reason="INVALID_DNS")
    if spec.mac_address and not _MAC.fullmatch(spec.mac_address):
        raise InvalidArgument(f"{spec.mac_address!r} is not a MAC address", reason="INVALID_MAC_ADDRESS")


def _check_conflicts(spec: ContainerSpec) -> None:
    joined = spec.network.startswith(JOIN)
    conflicts = {
        "a host name": bool(spec.hostname) and (joined or hosts(spec, "uts")),
        "a domain name": bool(spec.domainname) and (joined or hosts(spec, "uts")),
        "DNS servers, search domains or options": joined and bool(spec.dns or spec.dns_search or spec.dns_options),
        "more hosts": joined and bool(spec.extra_hosts),
        "a MAC address": bool(spec.mac_address) and not own(spec, "network"),
        "an IP address": bool(spec.ip_address or spec.ip6_address) and not own(spec, "network"),
        "a size of /dev/shm": bool(spec.shm_size_bytes) and not own(spec, "ipc"),
    }
    for what, wrong in conflicts.items():
        if wrong:
            where = "ipc" if "shm" in what else "uts" if "name" in what and not joined else "network"
            raise InvalidArgument(
                f"{what} can't be set: the container has no {where} namespace of its own",
                reason="CONFLICTING_OPTIONS",
                hint=f"leave it out, or leave out --{where}",
            )
    if any(entry.endswith(HOST_GATEWAY) for entry in spec.extra_hosts) and spec.network == "none":
        raise InvalidArgument("host-gateway needs a network", reason="CONFLICTING_OPTIONS")


def parse_extra_host(entry: str) -> tuple[str, str]:
    """ "name:address" (also "name=address", "name:[address]") -> name and address, or "host-gateway".

    Raises InvalidArgument (INVALID_EXTRA_HOST).
    """
    cut = min((at for at in (entry.find("="), entry.find(":")) if at > 0), default=-1)
    name, address = (entry[:cut], entry[cut + 1 :]) if cut > 0 else (entry, "")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not _HOST_NAME.fullmatch(name) or (address != HOST_GATEWAY and _address(address) is None):
        raise InvalidArgument(
            f"bad format for add-host: {entry!r}", reason="INVALID_EXTRA_HOST", hint="write NAME:ADDRESS"
        )
    return name, address


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
