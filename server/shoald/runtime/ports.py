"""Protocol of a container runtime: processes under a monitor that outlives the daemon.

Contract suite: tests/contract/test_runtime.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct


class Bundle(Struct, frozen=True):
    """What the runtime needs to make a container. All paths are absolute."""

    container_id: str
    config: Mapping[str, Any]
    """The OCI runtime configuration (config.json)."""
    rootfs: Path
    """Mounted root file system."""
    log_path: Path
    tty: bool
    stdin_open: bool


class Created(Struct, frozen=True):
    """A container whose first process waits to be started."""

    pid: int
    pid_start_time: int


class Exit(Struct, frozen=True):
    """How a container ended. `exit_code` is 128 + number for a signal."""

    container_id: str
    exit_code: int
    oom_killed: bool
    finished_at_ns: int


class ContainerRuntime(Protocol):
    """conmon and an OCI runtime. State lives in the run directory and survives the daemon."""

    @property
    def name(self) -> str:
        """Path of the OCI runtime in use."""

    def bundle_dir(self, container_id: str) -> Path:
        """The container's directory in the run directory, made if missing (0711): rootfs/ in it is the mount point."""

    async def create(self, bundle: Bundle) -> Created:
        """conmon + `RUNTIME create`. Raises FailedPrecondition (COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE), InvalidArgument,
        Internal (RUNTIME_FAILED) with the runtime's message; nothing is left on failure."""

    async def start(self, container_id: str) -> None:
        """`RUNTIME start`. Same errors."""

    async def kill(self, container_id: str, signal: int) -> bool:
        """Signal the first process by pidfd; False when it no longer runs."""

    async def kill_all(self, container_id: str) -> None:
        """SIGKILL every process of the container (cgroup)."""

    async def delete(self, container_id: str) -> None:
        """`RUNTIME delete --force`, cgroup, bundle directory (not the rootfs mount). Idempotent."""

    def exit_of(self, container_id: str) -> Exit | None:
        """From the exit file; None while it runs, or when it was never created."""

    def exits(self) -> AsyncIterator[Exit]:
        """Exits as they happen (inotify on the exit directory); no exit between exit_of() and exits() is missed
        when exits() is started first. One consumer."""

    def running_pid(self, container_id: str) -> Created | None:
        """From the pid file, verified alive by start time; None otherwise."""

    def attach_stdin(self, container_id: str) -> AbstractAsyncContextManager[StdinWriter]:
        """Connect to the container's standard input."""

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size."""



class StdinWriter(Protocol):
    """Standard input of a container."""

    async def write(self, data: bytes) -> None:
        """Write with back pressure. Raises FailedPrecondition (NOT_RUNNING) when the container is gone."""

    async def close(self) -> None:
        """End of input: the container reads EOF."""
