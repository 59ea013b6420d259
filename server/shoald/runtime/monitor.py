"""conmon: the process that outlives the daemon, holds a container's streams, and notes how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from shoal.errors import DeadlineExceeded, Internal
from shoald.host.pid import process_alive, process_start_time, wait_process
from shoald.host.process import Completed, run
from shoald.runtime.attach import hold_socket
from shoald.runtime.bundle import ContainerFiles, RunDirectory
from shoald.runtime.ports import Bundle

CREATE_SECONDS = 60.0
_END_SECONDS = 5.0
_REPORT_LIMIT = 64 << 10
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Report(Struct, frozen=True):
    """What conmon tells through its sync pipe: the pid in `data`, or a negative number and the runtime's message."""

    data: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Monitor:
    """How conmon is called. It gets a clean environment, / as working directory, and only the descriptors it needs."""

    program: str
    runtime: str
    runtime_args: tuple[str, ...]
    run_directory: RunDirectory

    def argv(self, bundle: Bundle, files: ContainerFiles) -> list[str]:
        """conmon's command line (conmon(8), 2.1)."""
        argv = [self.program, "--api-version", "1"]
        for option in ("-c", "-u"):
            argv += [option, bundle.container_id]
        argv += ["-n", bundle.journal.name if bundle.journal else bundle.container_id]
        argv += ["-r", self.runtime, "-b", str(files.directory), "--full-attach"]
        argv += ["-p", str(files.pid_file), "-P", str(files.monitor_pid_file)]
        argv += ["--exit-dir", str(self.run_directory.exits), "--persist-dir", str(files.directory)]
        # Without --no-sync-log every exit would wait for an fsync of the log.
        if bundle.journal is not None:
            argv += ["-l", "journald", "--log-tag", bundle.journal.tag]
        argv += ["-l", f"k8s-file:{bundle.log_path}", "--no-sync-log", "--log-level", "error"]
        argv += [f"--runtime-arg={argument}" for argument in self.runtime_options(files)]
        if bundle.stdin_open:
            argv.append("-i")
        if bundle.tty:
            argv.append("-t")
        return argv

    def runtime_options(self, files: ContainerFiles) -> list[str]:
        """Global options of the OCI runtime."""
        return [
            f"--root={self.run_directory.runtime_root}",
            f"--log={files.runtime_log}",
            "--log-format=json",
            *self.runtime_args,
        ]

    async def create(self, bundle: Bundle, files: ContainerFiles) -> Report:
        """Spawn conmon, which runs `RUNTIME create`, and wait for its report.

        Raises DeadlineExceeded (RUNTIME_TIMEOUT), Internal (MONITOR_FAILED), and what spawning raises.
        """
        read_end, write_end = os.pipe()
        try:
            os.set_blocking(read_end, False)
            environment = {
                "PATH": _PATH,
                "_OCI_SYNCPIPE": str(write_end),
                # For the socket that hands over a terminal: never in a directory that others may write.
                "TMPDIR": str(self.run_directory.terminals),
            }
            try:
                # conmon forks and its first process ends at once: the monitor is no child of the daemon.
                spawned = await self._spawn(bundle, files, environment, write_end)
            finally:
                os.close(write_end)
            if spawned.returncode != 0:
                text = spawned.stderr.decode(errors="replace").strip()
                raise Internal(f"conmon failed: {text}", reason="MONITOR_FAILED")
            return await _read_report(read_end)
        finally:
            os.close(read_end)

    async def _spawn(
        self, bundle: Bundle, files: ContainerFiles, environment: dict[str, str], report_fd: int
    ) -> Completed:
        with contextlib.ExitStack() as stack:
            descriptors = [report_fd]
            if bundle.stdin_open:
                descriptors.append(stack.enter_context(hold_socket(files)).fileno())
            argv = self.argv(bundle, files)
            return await run(argv, check=False, env=environment, pass_fds=descriptors, cwd="/", timeout=CREATE_SECONDS)


async def _read_report(fd: int) -> Report:
    received = bytearray()
    try:
        async with asyncio.timeout(CREATE_SECONDS):
            while b"\n" not in received and len(received) < _REPORT_LIMIT:
                await _readable(fd)
                chunk = os.read(fd, _REPORT_LIMIT)
                if not chunk:
                    break
                received += chunk
    except TimeoutError:
        message = f"the OCI runtime did not create the container within {CREATE_SECONDS:g} s"
        raise DeadlineExceeded(message, reason="RUNTIME_TIMEOUT") from None
    line = bytes(received).partition(b"\n")[0]
    try:
        return msgspec.json.decode(line, type=Report)
    except msgspec.DecodeError:
        if line:
            # conmon escapes only what it must: the runtime may have written bytes that are not JSON.
            return Report(-1, line.decode(errors="replace"))
        raise Internal("conmon ended without a report", reason="MONITOR_FAILED") from None


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def end_monitor(pid: int, start_time: int) -> None:
    """Wait for a monitor whose container has ended, at most 5 s, then kill it with what it started."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await wait_process(pid, start_time)
            return
    kill_monitor(pid, start_time)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await wait_process(pid, start_time)


def kill_monitor(pid: int, start_time: int) -> None:
    """SIGKILL conmon and a runtime that it is running: conmon leads a process group of its own."""
    if process_alive(pid, start_time):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def monitor_identity(files: ContainerFiles, program: str) -> tuple[int, int] | None:
    """(pid, start time) of the conmon that the pid file names, when it still runs and is one for this container."""
    pid = files.monitor_pid()
    start_time = None if pid is None else process_start_time(pid)
    if pid is None or start_time is None:
        return None
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words: Sequence[bytes] = file.read(4096).split(b"\0")
    except OSError:
        return None
    ours = os.path.basename(words[0]) == os.path.basename(os.fsencode(program)) and files.container_id.encode() in words
    return (pid, start_time) if ours else None
