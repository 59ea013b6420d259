"""Use cases of the host itself: info and version."""

from __future__ import annotations

import os
import platform as python_platform
import shutil
from collections.abc import Callable
from pathlib import Path

from shoal.platform import Platform
from shoald.engine.ports import HostInfo, HostVersion
from shoald.metadata.store import Metadata
from shoald.model.container import ContainerState
from shoald.version import version

RUNNING = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)


class SystemCases:
    """What a caller can learn of the host."""

    def __init__(
        self,
        md: Metadata,
        root: Path,
        *,
        cgroup_mode: str,
        runtime: Callable[[], str],
        conmon: str,
        warnings: Callable[[], list[str]],
    ) -> None:
        self._md = md
        self._root = root
        self._cgroup_mode = cgroup_mode
        self._runtime = runtime
        self._conmon = conmon
        self._warnings = warnings

    async def info(self) -> HostInfo:
        """See engine.ports.HostInfo."""
        states = [container.state for container in self._md.containers.list()]
        running = sum(state in RUNNING for state in states)
        disk = shutil.disk_usage(self._root)
        return HostInfo(
            host_id=self._md.meta.host_id,
            hostname=os.uname().nodename,
            operating_system=_os_name(),
            kernel_version=os.uname().release,
            platform=Platform.host(),
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            data_root=str(self._root),
            cgroup_mode=self._cgroup_mode,
            runtime=self._runtime(),
            containers_running=running,
            containers_stopped=len(states) - running,
            images=len(self._md.images.list()),
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            warnings=tuple(self._warnings()),
            version=version(),
        )

    async def version(self) -> HostVersion:
        """See engine.ports.HostVersion."""
        return HostVersion(
            version=version(),
            python_version=python_platform.python_version(),
            kernel_version=os.uname().release,
            runtime=self._runtime(),
            conmon=self._conmon,
            platform=Platform.host(),
        )


def _os_name() -> str:
    try:
        return python_platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
