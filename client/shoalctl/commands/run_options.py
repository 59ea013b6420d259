"""What `shoal run` was asked, parsed and checked before any host is asked; and the message that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from shoalctl.commands.isolation_options import IsolationOptions
from shoalctl.flags.detach_keys import DEFAULT, parse_detach_keys
from shoalctl.flags.empty import EMPTY
from shoalctl.flags.logging import LogFlags
from shoalctl.flags.mounts import MountFlag
from shoalctl.flags.networks import NetworkFlag
from shoalctl.flags.ports import Port
from shoalctl.flags.process import Restart
from shoalctl.flags.secrets import SecretFlag

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

STREAMS = frozenset({"stdin", "stdout", "stderr"})


class RunOptions(NamedTuple):
    """The flags of `run`. Sizes in bytes; `entrypoint` None: the image's; `attach`: what is followed."""

    image: str
    command: Sequence[str] = ()
    name: str = ""
    env: Sequence[str] = ()
    labels: Mapping[str, str] = EMPTY
    mounts: Sequence[MountFlag] = ()
    secrets: Sequence[SecretFlag] = ()
    follow: bool = False
    ports: Sequence[Port] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    entrypoint: Sequence[str] | None = None
    networks: Sequence[NetworkFlag] = ()
    userns: str = ""
    restart: Restart = Restart("no")
    stop_signal: str = ""
    stop_timeout: timedelta | None = None
    platform: tuple[str, str, str] | None = None
    memory: int = 0
    nano_cpus: int = 0
    pids_limit: int = 0
    read_only: bool = False
    init: bool = False
    remove: bool = False
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    pull: str = "missing"
    quiet: bool = False
    attach: frozenset[str] = STREAMS
    detach_keys: bytes = parse_detach_keys(DEFAULT)
    sig_proxy: bool = True
    cidfile: str = ""
    creds: tuple[str, str] | None = None
    isolation: IsolationOptions = IsolationOptions()
    log: LogFlags = LogFlags()

    def spec(self) -> container_pb2.ContainerSpec:
        """The container as the API describes it."""
        from shoal.v1 import container_pb2
        from shoalctl.commands.messages import (
            membership_message,
            mount_message,
            platform_message,
            port_message,
            restart_message,
        )

        spec = container_pb2.ContainerSpec(
            name=self.name,
            image=self.image,
            command=self.command,
            entrypoint=self.entrypoint or (),
            entrypoint_set=self.entrypoint is not None,
            env=self.env,
            working_dir=self.working_dir,
            user=self.user,
            hostname=self.hostname,
            labels=self.labels,
            tty=self.tty,
            stdin_open=self.interactive,
            read_only=self.read_only,
            more_networks=map(membership_message, self.networks[1:]),
            ports=map(port_message, self.ports),
            mounts=map(mount_message, self.mounts),
            restart_policy=restart_message(self.restart),
            auto_remove=self.remove,
            init=self.init,
            stop_signal=self.stop_signal,
            userns=self.userns,
            platform=platform_message(self.platform),
            resources=container_pb2.Resources(
                memory_bytes=self.memory, nano_cpus=self.nano_cpus, pids_limit=self.pids_limit
            ),
        )
        if self.log != LogFlags():
            spec.log.driver = self.log.driver
            spec.log.options.update(self.log.options)
        for first in self.networks[:1]:
            spec.network, spec.ip_address, spec.ip6_address = first.name, first.ip, first.ip6
            spec.mac_address = first.mac
            spec.network_aliases.extend(first.aliases)
        if self.stop_timeout is not None:
            spec.stop_timeout.FromTimedelta(self.stop_timeout)
        self.isolation.fill(spec)
        return spec
