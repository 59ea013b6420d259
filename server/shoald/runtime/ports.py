"""Protocol of a container runtime: processes under a monitor that outlives the daemon.

Contract suite: tests/contract/test_runtime.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from shoald.host.limits import LimitFile


class JournalLabel(Struct, frozen=True):
    """CONTAINER_NAME, and CONTAINER_TAG and SYSLOG_IDENTIFIER, of a container's entries in the journal."""

    name: str
    tag: str


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
    journal: JournalLabel | None = None
    """Output goes to the host's journal too, marked so; None: it does not."""


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


class StdinWriter(Protocol):
    """Standard input of a container."""

    async def write(self, data: bytes) -> None:
        """Write with back pressure. Raises FailedPrecondition (NOT_RUNNING) when the container is gone."""

    async def close(self) -> None:
        """End of input: the container reads EOF."""


class ContainerRuntime(Protocol):
    """conmon and an OCI runtime. State lives in the run directory and survives the daemon."""

    @property
    def name(self) -> str:
        """Path of the OCI runtime in use."""

    def bundle_dir(self, container_id: str) -> Path:
        """The container's directory in the run directory, made if missing (0711): rootfs/ in it is the mount point."""

    async def create(self, bundle: Bundle) -> Created:
        """conmon + `RUNTIME create`.

        Raises FailedPrecondition (COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE), InvalidArgument (INVALID_WORKDIR),
        Internal (RUNTIME_FAILED) with the runtime's message. On failure and on cancellation no process, cgroup or
        runtime state is left; the bundle directory stays for the caller, whose mount it holds, until delete().
        """

    async def start(self, container_id: str) -> None:
        """`RUNTIME start`. Same errors; after one, nothing of the container is left but its bundle directory. When
        cancelled, the start is completed first."""

    async def kill(self, container_id: str, signal: int) -> bool:
        """Signal the first process by pidfd; False when it no longer runs."""

    async def kill_all(self, container_id: str) -> None:
        """SIGKILL every process of the container (cgroup)."""

    async def pause(self, container_id: str) -> None:
        """Freeze all processes. Idempotent. Raises FailedPrecondition (NOT_RUNNING), Internal (RUNTIME_FAILED). When
        cancelled, it is completed first."""

    async def resume(self, container_id: str) -> None:
        """Thaw. Idempotent; errors and cancellation as with pause."""

    def paused(self, container_id: str) -> bool:
        """Whether its processes are frozen now."""

    async def set_limits(self, container_id: str, values: Sequence[LimitFile], memory_bytes: int = 0) -> None:
        """Change limits of a running container, all or none. `memory_bytes`: refuse when it uses more than that (0: do
        not look). Raises FailedPrecondition (NOT_RUNNING, LIMIT_REFUSED, MEMORY_IN_USE)."""

    async def delete(self, container_id: str) -> None:
        """End what runs (SIGKILL), and remove runtime state, cgroup, exit file and bundle directory. Idempotent.

        Where a root file system is still mounted, it and the directories above it stay: unmount first, or delete again.
        """

    def exit_of(self, container_id: str) -> Exit | None:
        """From the exit file; None while it runs, or when it was never created."""

    def exits(self) -> AsyncIterator[Exit]:
        """Exits as they happen (inotify on the exit directory). Watching begins with this call, not with the first
        iteration: call it first, then exit_of(), and no exit is missed (one may come twice). One consumer."""

    def running_pid(self, container_id: str) -> Created | None:
        """From the pid file, verified alive by start time; None otherwise."""

    async def is_started(self, container_id: str) -> bool:
        """Of a container whose process lives: whether start() has happened, else it still waits for it."""

    def attach_stdin(self, container_id: str) -> AbstractAsyncContextManager[StdinWriter]:
        """The container's standard input, for one attached client.

        Leaving the context ends nothing for the container or for other clients; only close() does. Raises
        FailedPrecondition (NOT_RUNNING, STDIN_CLOSED).
        """

    async def reopen_log(self, container_id: str) -> bool:
        """Have the monitor close its log and make a new one at the same path, which must not be there: what is there is
        thrown away. False when the monitor is gone. It is done when the path is there."""

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size. Raises FailedPrecondition (NOT_RUNNING)."""
