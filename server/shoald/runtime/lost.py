"""Monitors that die before their containers: the exit file that they owed is written for them."""

from __future__ import annotations

import asyncio
import os
import signal

from shoald.host.pid import pidfd_open, send_signal
from shoald.runtime.bundle import ContainerFiles, Monitored

LOST_EXIT_CODE = 255
"""What the container would have returned, nobody knows."""


class MonitorWatch:
    """Watches monitors through pidfds: one descriptor a running container."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def watch(self, files: ContainerFiles, noted: Monitored) -> None:
        """Watch the monitor of a container; when it is gone already and left no exit file, that is written now."""
        if files.container_id in self._fds:
            return
        fd = pidfd_open(noted.monitor_pid, noted.monitor_start_time)
        if fd is None:
            settle(files, noted)
            return
        self._fds[files.container_id] = fd
        asyncio.get_running_loop().add_reader(fd, self._ended, files, noted)

    def _ended(self, files: ContainerFiles, noted: Monitored) -> None:
        self.forget(files.container_id)
        settle(files, noted)

    def forget(self, container_id: str) -> None:
        """Watch no longer. Called before a container is deleted: that monitor owes nothing."""
        fd = self._fds.pop(container_id, None)
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        for container_id in list(self._fds):
            self.forget(container_id)


def settle(files: ContainerFiles, noted: Monitored) -> None:
    """A monitor has ended: without an exit file its container is ended too (nobody reads its output) and gets one."""
    if files.exit_file.exists() or not files.directory.exists():
        return
    send_signal(noted.pid, noted.start_time, signal.SIGKILL)
    files.write_exit(LOST_EXIT_CODE)
