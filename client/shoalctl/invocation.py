"""What the command line says about targets, before and after the verb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shoalctl.flags.fault import UsageFault

if TYPE_CHECKING:
    from shoalctl.fleet.fleet import Fleet
    from shoalctl.inventory import Host, Inventory

LOCAL_SOCKET = "/run/shoal/api/shoald.sock"
CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to a host, unless `--timeout` says otherwise."""


class Invocation(NamedTuple):
    """Targets and settings of one call of the command; `timeout` in seconds, for connecting.

    `hosts`, `groups` and `labels` are as written: each may hold a comma-separated list.
    """

    hosts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    everything: bool = False
    labels: tuple[str, ...] = ()
    timeout: float = CONNECT_TIMEOUT
    config: Path | None = None

    def extended(
        self,
        *,
        hosts: Sequence[str] = (),
        groups: Sequence[str] = (),
        everything: bool = False,
        labels: Sequence[str] = (),
        timeout: float | None = None,
        config: str | None = None,
    ) -> Invocation:
        """The same with what a further place of the command line says.

        Raises UsageFault, FailedPrecondition (reason NO_HOME).
        """
        if timeout is not None and not 0 < timeout < 86400:
            raise UsageFault(f"invalid timeout {timeout:g}", hint="write seconds, for example 10 or 2.5")
        return Invocation(
            hosts=(*self.hosts, *hosts),
            groups=(*self.groups, *groups),
            everything=self.everything or everything,
            labels=(*self.labels, *labels),
            timeout=self.timeout if timeout is None else timeout,
            config=self.config if config is None else _file(config),
        )

    def inventory(self, *, new: bool = False) -> Inventory:
        """The configured hosts; `new`: the command may make the file.

        Raises InvalidArgument (reason INVALID_CONFIG), FailedPrecondition (CONFIG_UNREADABLE, NO_HOME).
        """
        from shoalctl.inventory import Inventory

        return Inventory.load(self.config, must_exist=not new)

    def selected(self) -> list[Host]:
        """The hosts that this call is for, each once; at least one.

        Without a target on the command line: those of SHOAL_HOSTS, else the inventory's default, else, when no host is
        configured at all and a daemon of this machine has its socket at the usual place, that daemon.
        Raises NotFound for an unknown host or group, InvalidArgument (reason NO_TARGET) when nothing is selected.
        """
        inventory = self.inventory()
        named = bool(self.hosts or self.groups or self.everything or self.labels)
        default = [name.strip() for name in os.environ.get("SHOAL_HOSTS", "").split(",") if name.strip()]
        if not named and not default and not inventory.hosts and os.path.exists(LOCAL_SOCKET):
            from shoalctl.inventory import Host

            return [Host("local", f"unix://{LOCAL_SOCKET}")]
        return inventory.select(self.hosts, self.groups, self.everything, default, self.labels)

    def builds_once(self) -> bool:
        """Whether all targets are groups that share their builds, `builders` of the configuration."""
        inventory = self.inventory()
        targets = [*self.hosts, *(f"@{name}" for text in self.groups for name in text.split(","))]
        if self.everything or self.labels:
            return False
        targets = targets or os.environ.get("SHOAL_HOSTS", "").split(",")
        if not any(targets):
            targets = list(inventory.default)
        names = [target.strip() for target in targets if target.strip()]
        return bool(names) and all(name.startswith("@") and name[1:].strip() in inventory.builders for name in names)

    def fleet(self) -> Fleet:
        """A fleet of the selected hosts, not yet connected."""
        from shoalctl.fleet.fleet import Fleet

        return Fleet(self.selected(), timeout=self.timeout)


def _file(config: str) -> Path:
    from shoalctl.config_file import expanded

    return expanded(config)
