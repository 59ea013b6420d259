"""Removing all that a daemon made on its host, after it has ended: for the sandbox, the tests and an uninstall."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

from shoal.errors import ShoalError
from shoald.config import Config
from shoald.host import cgroups, nft
from shoald.host.controllers import unmount_unused
from shoald.host.mounts import unmount_tree
from shoald.host.process import send_signal
from shoald.host.trees import remove_tree
from shoald.network import dns, forwarding, wiring
from shoald.runtime.bundle import RunDirectory


async def purge(config: Config) -> None:
    """Remove containers, mounts, network, cgroups, run directory and data directory. Idempotent.

    Goes through all of it, and then raises the first error.
    """
    found = cgroups.detect()
    parent = config.runtime.cgroup_parent
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: asyncio.to_thread(_kill_containers, config),
        lambda: cgroups.kill(found, parent),
        lambda: asyncio.to_thread(_unmount, config),
        lambda: cgroups.remove(found, parent),
        lambda: asyncio.to_thread(dns.end, config.run_dir / dns.DNS_DIRECTORY),
        lambda: nft.delete_table("ip", config.network.nft_table),
        lambda: nft.delete_table("ip6", config.network.nft_table),
        lambda: forwarding.withdraw(config.network.bridge),
        lambda: asyncio.to_thread(unmount_unused),
        lambda: asyncio.to_thread(_delete_bridges, config.network.bridge),
        lambda: asyncio.to_thread(_remove_directories, config),
    ]
    errors: list[ShoalError] = []
    for step in steps:
        try:
            await step()
        except ShoalError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _kill_containers(config: Config) -> None:
    """First processes and monitors, by the identities that were noted: a pid used again is never hit."""
    directory = RunDirectory(config.run_dir)
    for container_id in _ids(config):
        noted = directory.container(container_id).monitored()
        if noted is not None:
            send_signal(noted.pid, noted.start_time, signal.SIGKILL)
            send_signal(noted.monitor_pid, noted.monitor_start_time, signal.SIGKILL)


def _ids(config: Config) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [entry.name for entry in os.scandir(config.run_dir) if len(entry.name) == 64]
    return []


def _unmount(config: Config) -> None:
    for directory in (config.run_dir, config.root):
        if directory.exists():
            unmount_tree(directory, detach=True)


def _delete_bridges(default: str) -> None:
    for name in (*wiring.bridges_of(default), default):
        wiring.delete_bridge(name)


def _remove_directories(config: Config) -> None:
    for directory in (config.run_dir, config.root):
        if directory.exists():
            remove_tree(directory)
