"""Parsed flags -> messages of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoalctl.flags.mounts import MountFlag
from shoalctl.flags.networks import NetworkFlag
from shoalctl.flags.ports import Port
from shoalctl.flags.process import Restart

if TYPE_CHECKING:
    from shoal.v1 import container_pb2, types_pb2

_MOUNT_KINDS = {"bind": 1, "volume": 2, "tmpfs": 3, "content": 4}
_RESTARTS = {"no": 1, "on-failure": 2, "always": 3, "unless-stopped": 4}


def platform_message(platform: tuple[str, str, str] | None) -> types_pb2.Platform | None:
    """The platform, or None for the host's own."""
    return None if platform is None else platform_of(platform)


def platform_of(platform: tuple[str, str, str]) -> types_pb2.Platform:
    """A platform: system, architecture, variant."""
    from shoal.v1 import types_pb2

    return types_pb2.Platform(os=platform[0], architecture=platform[1], variant=platform[2])


def port_message(port: Port) -> container_pb2.PortMapping:
    """A published port."""
    from shoal.v1 import container_pb2

    message = container_pb2.PortMapping
    return message(
        host_ip=port.host_ip,
        host_port=port.host_port,
        container_port=port.container_port,
        protocol=message.PROTOCOL_UDP if port.protocol == "udp" else message.PROTOCOL_TCP,
    )


def membership_message(network: NetworkFlag) -> container_pb2.NetworkMembership:
    """A place in a network."""
    from shoal.v1 import container_pb2

    return container_pb2.NetworkMembership(
        network=network.name,
        ip_address=network.ip,
        ip6_address=network.ip6,
        mac_address=network.mac,
        aliases=network.aliases,
    )


def mount_message(mount: MountFlag) -> container_pb2.Mount:
    """A mount; files of this machine still lack what only their host can tell: see `Supplies`."""
    from shoal.v1 import container_pb2

    return container_pb2.Mount(
        kind=_MOUNT_KINDS[mount.kind],  # type: ignore[arg-type]
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        tmpfs_size_bytes=mount.size,
        tmpfs_mode=mount.mode,
        tmpfs_options=mount.options,
        propagation=mount.propagation,
        no_copy=mount.no_copy,
        subpath=mount.subpath,
        volume_labels=mount.labels,
        volume_options=mount.volume_options,
    )


def restart_message(restart: Restart) -> container_pb2.RestartPolicy:
    """A restart policy."""
    from shoal.v1 import container_pb2

    return container_pb2.RestartPolicy(
        name=_RESTARTS[restart.name],  # type: ignore[arg-type]
        max_retries=restart.max_retries,
    )
