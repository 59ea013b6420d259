"""More processes in a running container: `RUNTIME exec` as a child of the daemon, its streams through the daemon.

Pipes give back pressure and cost no disk. With a terminal the runtime gets one end of a pseudo-terminal of ours and
passes bytes on to the container's own. The daemon's death closes the streams; `end_strays` ends what survives that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoald.host.pid import process_start_time, send_signal
from shoald.host.process import DEVNULL, PIPE, Process, spawn
from shoald.runtime.execbuffer import ExecBuffer
from shoald.runtime.execspec import ExecRequest, exec_process
from shoald.runtime.messages import runtime_error
from shoald.runtime.probe import OciRuntime
from shoald.runtime.user import resolve_user
from shoald.runtime.workdir import check_working_dir

CHUNK = 64 << 10
START_TIMEOUT_S = 30.0
DRAIN_S = 1.0
POLL_S = 0.002


class ExecProcess:
    """A process that was started. `wait()` gives its exit code; output comes through `output`."""

    def __init__(self, exec_id: str, child: Process, pid: int, start_time: int, terminal: int | None) -> None:
        self.exec_id = exec_id
        self.pid = pid
        self.output = ExecBuffer()
        self._child = child
        self._start_time = start_time
        self._terminal = terminal
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        """Whether the exit code is known."""
        return self._exit.done()

    async def wait(self) -> int:
        """The exit code; 128 + number for a signal."""
        return await asyncio.shield(self._exit)

    def set_exit(self, code: int) -> None:
        """It ended and all of its output is in the buffer."""
        if not self._exit.done():
            self._exit.set_result(code)

    def kill(self, number: int) -> None:
        """Signal it; one that has ended is left in peace."""
        if not self.ended:
            send_signal(self.pid, self._start_time, number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal; the runtime passes it on."""
        if self._terminal is not None and not self.ended:
            set_size(self._terminal, rows, columns)
            self._child.send_signal(signal.SIGWINCH)

    async def write(self, data: bytes) -> None:
        """To its standard input, with back pressure. What comes after its end is dropped."""
        if self._terminal is not None:
            await _write_all(self._terminal, data)
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, AssertionError):
            self._child.stdin.write(data)
            await self._child.stdin.drain()

    async def close_stdin(self) -> None:
        """End of its input."""
        if self._terminal is not None:
            await _write_all(self._terminal, b"\x04")
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, AssertionError):
            self._child.stdin.close()


class ExecRunner:
    """Starts processes in containers of one runtime."""

    def __init__(self, runtime: OciRuntime, runtime_root: Path, run_dir: Path) -> None:
        self._runtime = runtime
        self._runtime_root = runtime_root
        self._run_dir = run_dir

    @contextlib.asynccontextmanager
    async def run(self, container_id: str, container_pid: int, request: ExecRequest) -> AsyncIterator[ExecProcess]:
        """Start it, and follow it inside the block; leaving kills it.

        Raises FailedPrecondition (NOT_RUNNING, COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE), InvalidArgument.
        """
        bundle = self._run_dir / container_id
        exec_id = secrets.token_hex(32)
        spec, pid_file = bundle / f"exec-{exec_id}.json", bundle / f"exec-{exec_id}.pid"
        process = self._process(bundle, container_pid, request)
        spec.write_bytes(msgspec.json.encode(process))
        argv = [self._runtime.path, f"--root={self._runtime_root}", *self._runtime.arguments]
        argv += ["exec", "--process", str(spec), "--pid-file", str(pid_file), container_id]
        try:
            async with contextlib.AsyncExitStack() as stack:
                child, terminal = await self._spawn(argv, request, stack)
                pid = await _started(child, pid_file, request, terminal)
                start_time = process_start_time(pid) or 0
                started = ExecProcess(exec_id, child, pid, start_time, terminal)
                pump = asyncio.create_task(_pump(child, terminal, started, request))
                try:
                    yield started
                finally:
                    started.kill(signal.SIGKILL)
                    pump.cancel()
                    await asyncio.wait([pump])
                    started.output.close()
                    started.set_exit(137)
        finally:
            spec.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

    def _process(self, bundle: Path, container_pid: int, request: ExecRequest) -> dict[str, object]:
        try:
            config = msgspec.json.decode((bundle / "config.json").read_bytes())
        except FileNotFoundError:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING") from None
        # The kernel's own way into what the container sees now, mounts included.
        root = Path(f"/proc/{container_pid}/root")
        first = config["process"]["user"]
        asked = request.user or f"{first['uid']}:{first['gid']}"
        user = resolve_user(asked, root)
        process = exec_process(config, request, user)
        check_working_dir(root, {"process": process, "mounts": ()})
        return process

    async def _spawn(
        self, argv: list[str], request: ExecRequest, stack: contextlib.AsyncExitStack
    ) -> tuple[Process, int | None]:
        if not request.tty:
            streams = DEVNULL if request.detach else PIPE
            stdin = PIPE if request.stdin_open and not request.detach else DEVNULL
            child = await spawn(argv, stdin=stdin, stdout=streams, stderr=PIPE, cwd="/")
            return await stack.enter_async_context(child), None
        ours, theirs = os.openpty()
        stack.callback(os.close, ours)
        os.set_blocking(ours, False)
        set_raw(theirs)
        set_size(theirs, request.rows or 24, request.columns or 80)
        try:
            child = await spawn(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd="/")
        finally:
            os.close(theirs)
        return await stack.enter_async_context(child), ours


async def _started(child: Process, pid_file: Path, request: ExecRequest, terminal: int | None) -> int:
    """Wait until the runtime has written the pid; its error otherwise."""
    ending = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    return int(pid_file.read_text())
                if ending.done():
                    with contextlib.suppress(FileNotFoundError, ValueError):
                        return int(pid_file.read_text())
                    raise await _failure(child, request, terminal)
                await asyncio.sleep(POLL_S)
    finally:
        ending.cancel()


async def _failure(child: Process, request: ExecRequest, terminal: int | None) -> ShoalError:
    if terminal is None:
        text = await child.stderr.read(CHUNK)
    else:
        text = b""
        with contextlib.suppress(OSError, BlockingIOError):
            text = os.read(terminal, CHUNK)
    message = text.decode(errors="replace")
    return runtime_error(message, command=request.args[0], working_dir=request.working_dir)


async def _pump(child: Process, terminal: int | None, started: ExecProcess, request: ExecRequest) -> None:
    """Bring output into the buffer until the process and its streams have ended."""
    if terminal is not None:
        pumps = [asyncio.create_task(_pump_terminal(terminal, started.output))]
    else:
        pumps = [asyncio.create_task(_pump_pipe(child.stderr, True, started.output))]
        if not request.detach:
            pumps.append(asyncio.create_task(_pump_pipe(child.stdout, False, started.output)))
    try:
        code = await child.wait()
        # Grandchildren may hold the streams open: what was written is read, their end is not awaited for long.
        await _drained(pumps, started.output)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
    started.output.close()
    started.set_exit(code if code >= 0 else 128 - code)


async def _drained(pumps: list[asyncio.Task[None]], output: ExecBuffer) -> None:
    while True:
        before = output.end
        _, pending = await asyncio.wait(pumps, timeout=DRAIN_S)
        if not pending or (output.end == before and not output.full):
            return


async def _pump_pipe(stream: asyncio.StreamReader, stderr: bool, output: ExecBuffer) -> None:
    while data := await stream.read(CHUNK):
        await output.put(stderr, data)


async def _pump_terminal(terminal: int, output: ExecBuffer) -> None:
    while True:
        await _ready(terminal, write=False)
        try:
            data = os.read(terminal, CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return  # EIO: the other end is closed
        if not data:
            return
        await output.put(False, data)


async def _write_all(terminal: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(terminal, view) :]
        except BlockingIOError:
            await _ready(terminal, write=True)
        except OSError:
            return


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _resolve, ready)
    try:
        await ready
    finally:
        remove(fd)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ, within what fits."""
    rows, columns = (max(0, min(value, 1000)) for value in (rows, columns))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def set_raw(terminal: int) -> None:
    """No echo and no line editing on our side: the container's own terminal does both."""
    import tty

    tty.setraw(terminal)


def end_strays(bundle: Path) -> None:
    """Kill what execs of an earlier daemon left running in a container, and remove their files."""
    for pid_file in bundle.glob("exec-*.pid"):
        with contextlib.suppress(OSError, ValueError, ShoalError):
            pid = int(pid_file.read_text())
            start = process_start_time(pid)
            # Written after the process began: an older process is the one, a younger one only has its number.
            if start is not None and _started_before(start, pid_file):
                send_signal(pid, start, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)
    for spec in bundle.glob("exec-*.json"):
        spec.unlink(missing_ok=True)


def _started_before(start_ticks: int, pid_file: Path) -> bool:
    boot = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    return boot + start_ticks / os.sysconf("SC_CLK_TCK") <= pid_file.stat().st_mtime + 1.0


def check_request(request: ExecRequest) -> None:
    """Refuse what can't be run. Raises InvalidArgument."""
    if not request.args or not request.args[0]:
        raise InvalidArgument("no command to run", reason="NO_COMMAND")
    if any("\0" in text for text in (*request.args, *request.env, request.user, request.working_dir)):
        raise InvalidArgument("a NUL byte in the request", reason="INVALID_STRING")
