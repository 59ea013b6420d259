"""The container runtime of real hosts: conmon with crun or runc."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import structlog

from shoal.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, ShoalError
from shoald.host import cgroups, freezer
from shoald.host.blocking import in_thread
from shoald.host.cgroups import Cgroups
from shoald.host.devnull import restore_null
from shoald.host.limits import LimitFile, set_limits
from shoald.host.pid import process_alive, process_start_time, send_signal, wait_process
from shoald.host.process import run
from shoald.host.usage import oom_kills, read_usage
from shoald.runtime.attach import StdinConnections
from shoald.runtime.bundle import ContainerFiles, Monitored, RunDirectory
from shoald.runtime.exec import ExecRunner
from shoald.runtime.exits import ExitWatch
from shoald.runtime.hooks import reader, with_output
from shoald.runtime.lost import MonitorWatch
from shoald.runtime.messages import errors_in, runtime_error
from shoald.runtime.monitor import Monitor, Report, end_monitor, kill_monitor, monitor_identity
from shoald.runtime.ports import Bundle, Created, Exit, StdinWriter
from shoald.runtime.precompiled import PrecompiledFilters
from shoald.runtime.probe import OciRuntime
from shoald.runtime.targets import check_mount_targets
from shoald.runtime.uncancelled import uncancelled
from shoald.runtime.workdir import check_working_dir

log = structlog.get_logger(__name__)

_START_SECONDS = 60.0
_DELETE_SECONDS = 30.0
_END_SECONDS = 10.0
_MAX_TERMINAL = 1000
_LONGEST_RUN_DIR = 80
_TAIL_BYTES = 2000


class ConmonRuntime:
    """Implements `ContainerRuntime`. `run_dir` is a directory of ours alone, on a tmpfs.

    `host_cgroups`: the host's hierarchies, when the caller has found them already.
    """

    def __init__(self, runtime: OciRuntime, *, conmon: str, run_dir: Path, host_cgroups: Cgroups | None = None) -> None:
        if len(os.fsencode(run_dir)) > _LONGEST_RUN_DIR:
            message = (
                f"the run directory {run_dir} is longer than {_LONGEST_RUN_DIR} bytes: sockets in it would not work"
            )
            raise InvalidArgument(message, reason="RUN_DIR_TOO_LONG")
        self._runtime = runtime
        self._cgroups = cgroups.detect() if host_cgroups is None else host_cgroups
        self._directory = RunDirectory(run_dir)
        self._directory.prepare()
        self._monitor = Monitor(conmon, runtime.path, runtime.arguments, self._directory)
        self._stdin = StdinConnections(self._directory)
        self._monitors = MonitorWatch()
        self._filters = PrecompiledFilters()

    @property
    def name(self) -> str:
        """Path of the OCI runtime in use."""
        return self._runtime.path

    @property
    def description(self) -> str:
        """Name and version of the OCI runtime."""
        return f"{self._runtime.name} {self._runtime.version}".strip()

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self._directory.path

    def close(self) -> None:
        """Let go of descriptors; the containers stay as they are."""
        self._stdin.close()
        self._monitors.close()

    def bundle_dir(self, container_id: str) -> Path:
        """The container's directory, made if missing."""
        files = self._directory.container(container_id)
        files.make()
        return files.directory

    async def create(self, bundle: Bundle) -> Created:
        """conmon + `RUNTIME create`; see the protocol."""
        files = self._directory.container(bundle.container_id)
        if ":" in str(bundle.log_path):
            # conmon takes what follows for something else.
            raise InvalidArgument(f"the log path {bundle.log_path} has a colon", reason="INVALID_LOG_PATH")
        check_mount_targets(bundle.rootfs, bundle.config)
        check_working_dir(bundle.rootfs, bundle.config)
        created, cancelled = await uncancelled(self._create(bundle, files))
        if cancelled:
            await uncancelled(self._discard(files))
            raise asyncio.CancelledError
        return created

    async def _create(self, bundle: Bundle, files: ContainerFiles) -> Created:
        files.make()
        if (self._directory.runtime_root / bundle.container_id).exists() or files.monitored() is not None:
            await self._discard(files)
        files.clear()
        config = bundle.config
        if self._runtime.name == "crun":
            config = await self._filters.add_to(with_output(config, str(files.hooks_log)))
        files.write_config(config, reader(config))
        try:
            try:
                report = await self._monitor.create(bundle, files)
            finally:
                # Nothing of the container has run yet: whoever was given the host's /dev/null could not use it.
                restore_null()
            if report.data <= 0:
                raise _failure(files, self._runtime_message(files, report))
            return self._note(files, report.data, bundle)
        except BaseException:
            await self._discard(files)
            raise

    def _note(self, files: ContainerFiles, pid: int, bundle: Bundle) -> Created:
        start_time = process_start_time(pid)
        monitor = monitor_identity(files, self._monitor.program)
        if start_time is None or monitor is None:
            raise Internal("the container ended before it was started", reason="RUNTIME_FAILED")
        cgroup_path = str(bundle.config["linux"]["cgroupsPath"])
        poststop = "poststop" in bundle.config.get("hooks", {})
        noted = Monitored(pid, start_time, *monitor, cgroup_path, bundle.stdin_open, bundle.tty, poststop)
        files.write_monitored(noted)
        self._monitors.watch(files, noted)
        return Created(pid, start_time)

    def _runtime_message(self, files: ContainerFiles, report: Report) -> str:
        try:
            logged = errors_in(files.runtime_log.read_bytes())
        except FileNotFoundError:
            logged = ""
        return logged or report.message

    async def start(self, container_id: str) -> None:
        """`RUNTIME start`; see the protocol."""
        _, cancelled = await uncancelled(self._start(self._directory.container(container_id)))
        if cancelled:
            raise asyncio.CancelledError

    async def _start(self, files: ContainerFiles) -> None:
        argv = [self._runtime.path, *self._options(), "start", files.container_id]
        try:
            completed = await run(argv, check=False, cwd="/", timeout=_START_SECONDS)
            if completed.returncode != 0:
                raise _failure(files, completed.stderr.decode(errors="replace"))
        except BaseException:
            await self._discard(files)
            raise

    def _options(self) -> list[str]:
        return [f"--root={self._directory.runtime_root}", *self._runtime.arguments]

    async def kill(self, container_id: str, signal: int) -> bool:
        """Signal the first process by pidfd; False when it no longer runs."""
        running = self._directory.container(container_id).monitored()
        return running is not None and send_signal(running.pid, running.start_time, signal)

    async def kill_all(self, container_id: str) -> None:
        """SIGKILL the first process, with which its pid namespace ends, and whatever else is in the cgroup."""
        running = self._directory.container(container_id).monitored()
        if running is None:
            return
        send_signal(running.pid, running.start_time, signal.SIGKILL)
        freezer.thaw(self._cgroups, running.cgroup_path)
        await cgroups.kill(self._cgroups, running.cgroup_path)

    async def pause(self, container_id: str) -> None:
        """`RUNTIME pause`; see the protocol."""
        await self._freeze(container_id, "pause", frozen=True)

    async def resume(self, container_id: str) -> None:
        """`RUNTIME resume`; see the protocol."""
        await self._freeze(container_id, "resume", frozen=False)

    async def _freeze(self, container_id: str, verb: str, *, frozen: bool) -> None:
        if self.running_pid(container_id) is None:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        if self.paused(container_id) == frozen:
            return
        argv = [self._runtime.path, *self._options(), verb, container_id]
        completed, cancelled = await uncancelled(run(argv, check=False, cwd="/", timeout=_START_SECONDS))
        if completed.returncode != 0:
            if self.running_pid(container_id) is None:
                raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
            raise _failure(self._directory.container(container_id), completed.stderr.decode(errors="replace"))
        if cancelled:
            raise asyncio.CancelledError

    def paused(self, container_id: str) -> bool:
        """Whether its processes are frozen now."""
        noted = self._directory.container(container_id).monitored()
        return noted is not None and freezer.is_frozen(self._cgroups, noted.cgroup_path)

    async def set_limits(self, container_id: str, values: Sequence[LimitFile], memory_bytes: int = 0) -> None:
        """Through the cgroup's files; see the protocol."""
        noted = self._directory.container(container_id).monitored()
        if noted is None or self.running_pid(container_id) is None:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        used = read_usage(self._cgroups, noted.cgroup_path).memory if memory_bytes else None
        if used is not None and used > memory_bytes:
            raise FailedPrecondition(
                f"the container uses {used} bytes of memory now, more than {memory_bytes}", reason="MEMORY_IN_USE"
            )
        # Taking memory away may have to write it to the disk first.
        await in_thread(lambda: set_limits(self._cgroups, noted.cgroup_path, values))

    async def delete(self, container_id: str) -> None:
        """End what runs and remove all but a mounted root file system; see the protocol."""
        files = self._directory.container(container_id)
        _, cancelled = await uncancelled(self._delete(files))
        if cancelled:
            raise asyncio.CancelledError

    async def _delete(self, files: ContainerFiles) -> None:
        await self._discard(files)
        files.remove()

    async def _discard(self, files: ContainerFiles) -> None:
        """Undo create and start, whatever of them was done, by this daemon or one before; the directory stays."""
        self._stdin.drop(files.container_id)
        self._monitors.forget(files.container_id)
        noted = files.monitored()
        monitor = (noted.monitor_pid, noted.monitor_start_time) if noted else None
        monitor = monitor or monitor_identity(files, self._monitor.program)
        cgroup_path = noted.cgroup_path if noted else files.configured().linux.cgroups_path
        if noted is None and monitor is not None:
            # Creation did not come to its end: conmon may still be running the runtime.
            kill_monitor(*monitor)
        if noted is not None:
            # All that `RUNTIME delete` would do is done below: state directory and cgroups go, and no program runs.
            freezer.thaw(self._cgroups, noted.cgroup_path)
            await _end_process(files.container_id, noted)
            if noted.poststop:
                await self._delete_by_runtime(files)
        elif (self._directory.runtime_root / files.container_id).exists():
            await self._delete_by_runtime(files)
        if monitor is not None:
            await end_monitor(*monitor)
        if cgroup_path:
            # What a killed runtime left half-made.
            await cgroups.kill(self._cgroups, cgroup_path)
            await cgroups.remove(self._cgroups, cgroup_path)
        files.clear()
        self._forget_runtime_state(files.container_id)

    async def _delete_by_runtime(self, files: ContainerFiles) -> None:
        """With poststop hooks. What the runtime does not remove, the caller does; who could be told of a hook that
        failed is gone (OCI runtime spec, runtime.md)."""
        argv = [self._runtime.path, *self._options(), "delete", "--force", files.container_id]
        try:
            completed = await run(argv, check=False, cwd="/", timeout=_DELETE_SECONDS)
        except DeadlineExceeded as error:
            log.warning("runtime_delete_failed", container=files.container_id, error=str(error))
            return
        said = completed.stderr.decode(errors="replace").strip()
        if completed.returncode != 0 or "hook" in said:
            error_text = said or _tail(files.hooks_log)
            log.warning("runtime_delete_failed", container=files.container_id, error=error_text)

    def _forget_runtime_state(self, container_id: str) -> None:
        """Remove a state directory that the runtime left behind (a killed `create`)."""
        state = self._directory.runtime_root / container_id
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in state.iterdir():
                entry.unlink()
            state.rmdir()

    def exit_of(self, container_id: str) -> Exit | None:
        """From the exit file; None while it runs, or when it was never created."""
        files = self._directory.container(container_id)
        try:
            with files.exit_file.open("rb") as file:
                text, finished_at_ns = file.read(32), os.fstat(file.fileno()).st_mtime_ns
            exit_code = int(text)
        except (FileNotFoundError, ValueError):
            return None
        self._stdin.drop(container_id)
        noted = files.monitored()
        oom = files.oom_seen() or (noted is not None and bool(oom_kills(self._cgroups, noted.cgroup_path)))
        return Exit(container_id, exit_code, oom, finished_at_ns)

    def exits(self) -> AsyncIterator[Exit]:
        """Exits from now on; takes up the watch over the monitors that an earlier daemon left."""
        watch = ExitWatch(self._directory.exits, self.exit_of)
        for files in self._directory.containers():
            noted = files.monitored()
            if noted is not None:
                self._monitors.watch(files, noted)
        return watch

    def running_pid(self, container_id: str) -> Created | None:
        """The first process, verified alive by start time; None otherwise."""
        files = self._directory.container(container_id)
        noted = files.monitored()
        if noted is None or files.exit_file.exists() or not process_alive(noted.pid, noted.start_time):
            return None
        return Created(noted.pid, noted.start_time)

    async def is_started(self, container_id: str) -> bool:
        """Whether start() has happened to a created container: the runtime's own word."""
        completed = await run([self._runtime.path, *self._options(), "state", container_id], check=False, cwd="/")
        try:
            return bool(msgspec.json.decode(completed.stdout)["status"] in ("running", "paused"))
        except (msgspec.DecodeError, KeyError, TypeError):
            return False

    def exec_runner(self) -> ExecRunner:
        """What starts more processes in the containers of this runtime."""
        return ExecRunner(self._runtime, self._directory.runtime_root, self._directory.path)

    def attach_stdin(self, container_id: str) -> AbstractAsyncContextManager[StdinWriter]:
        """The container's standard input, for one attached client."""
        return self._stdin.attach(container_id)

    async def reopen_log(self, container_id: str) -> bool:
        """conmon closes its log, writes `PATH.tmp` and renames it to PATH; see the protocol. Through its control FIFO:
        conmon 2.1.6 takes SIGUSR1 without doing anything."""
        return self._control(container_id, b"2 0 0\n")

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size, at most 1000 by 1000."""
        rows, columns = (max(0, min(value, _MAX_TERMINAL)) for value in (rows, columns))
        if not self._control(container_id, b"1 %d %d\n" % (rows, columns)):
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")

    def _control(self, container_id: str, message: bytes) -> bool:
        """Write to conmon's control FIFO; False when nobody reads it."""
        path = self._directory.container(container_id).directory / "ctl"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO):
                raise
            return False
        try:
            os.write(fd, message)
        finally:
            os.close(fd)
        return True


def _failure(files: ContainerFiles, message: str) -> ShoalError:
    process = files.configured().process
    return runtime_error(
        message,
        command=process.args[0] if process.args else "",
        working_dir=process.cwd,
        hook_output=_tail(files.hooks_log),
    )


def _tail(path: Path) -> str:
    """The end of a file, "" without one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
    return ""


async def _end_process(container_id: str, noted: Monitored) -> None:
    """SIGKILL the first process and wait; raises DeadlineExceeded (CONTAINER_STUCK) when even that does not end it."""
    send_signal(noted.pid, noted.start_time, signal.SIGKILL)
    try:
        async with asyncio.timeout(_END_SECONDS):
            await wait_process(noted.pid, noted.start_time)
    except TimeoutError:
        message = f"process {noted.pid} of container {container_id} does not end: it waits in the kernel"
        raise DeadlineExceeded(message, reason="CONTAINER_STUCK") from None
