"""More processes in a running container: `RUNTIME exec` as a child of the daemon, its streams through the daemon.

Pipes give back pressure and cost no disk. With a terminal the runtime gets one end of a pseudo-terminal of ours and
passes bytes on to the container's own. The daemon's death closes the streams; `end_strays` ends what survives that.

Never is the host's /dev/null one of the streams: crun gives the streams of a process to the container's root, who could
then change the one inode that the whole host uses (crun issue 1845).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from asyncinotify import Inotify, Mask

from shoal.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, ShoalError
from shoald.host.blocking import to_end
from shoald.host.pid import process_start_time, send_signal, signal_session
from shoald.host.process import Process, spawn
from shoald.host.trees import remove_tree
from shoald.runtime.execbuffer import ExecBuffer
from shoald.runtime.execspec import ExecRequest, exec_process
from shoald.runtime.messages import errors_in, runtime_error
from shoald.runtime.probe import OciRuntime
from shoald.runtime.terminal import open_pipe, open_terminal, read_some, set_inner_size, set_size, write_all
from shoald.runtime.user import resolve_user
from shoald.runtime.workdir import check_working_dir

CHUNK = 64 << 10
START_TIMEOUT_S = 30.0
DRAIN_S = 0.2
PREFIX = "exec-"
_END_OF_INPUT = b"\x04"


@dataclass(slots=True)
class _Streams:
    """Our ends. `stderr` is the runtime's own where there is a terminal."""

    stdin: int | None
    stdout: int
    stderr: int
    terminal: bool


class ExecProcess:
    """A process that was started. `wait()` gives its exit code; output comes through `output`."""

    def __init__(self, child: Process, pid: int, streams: _Streams) -> None:
        self.pid = pid
        self.output = ExecBuffer()
        self._child = child
        self._start_time = process_start_time(pid) or 0
        self._streams = streams
        self._writing = asyncio.Lock()
        self.taken = 0
        """Bytes of input that were written, or dropped because nobody reads them."""
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        """Whether the exit code is known."""
        return self._exit.done()

    async def wait(self) -> int:
        """The exit code; 128 + number for a signal. All output is in the buffer then."""
        return await asyncio.shield(self._exit)

    def set_exit(self, code: int) -> None:
        """It ended and all of its output is in the buffer."""
        if not self._exit.done():
            self._exit.set_result(code)

    def kill(self, number: int) -> None:
        """Signal it; one that has ended is left in peace."""
        if not self.ended:
            send_signal(self.pid, self._start_time, number)

    def end(self) -> None:
        """SIGKILL it and what it started, but for what left its session."""
        if not self.ended:
            signal_session(self.pid, self._start_time, signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal, if it has one."""
        if self._streams.terminal and not self.ended:
            set_size(self._streams.stdout, rows, columns)
            set_inner_size(self._child.pid, rows, columns)

    async def write(self, data: bytes, offset: int | None = None) -> None:
        """To its standard input, with back pressure. What nobody reads any more is dropped.

        `offset`: the data's place in all of the input (None: at its end); what was written already is skipped. Raises
        InvalidArgument (INPUT_GAP).
        """
        async with self._writing:
            skipped = 0 if offset is None else self.taken - offset
            if skipped < 0:
                raise InvalidArgument(f"input from {offset} on, but {self.taken} is next", reason="INPUT_GAP")
            data = data[skipped:]
            end = self.taken + len(data)
            await self._write(data)
            self.taken = end

    async def _write(self, data: bytes) -> None:
        if self._streams.stdin is None or self.ended or not data:
            return
        writing = asyncio.ensure_future(write_all(self._streams.stdin, data, self._took))
        either: set[asyncio.Future[Any]] = {writing, self._exit}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            await asyncio.wait({writing})
        if not writing.cancelled() and not writing.result():
            self._close_stdin()

    def _took(self, count: int) -> None:
        self.taken += count

    async def release(self) -> None:
        """Wait until nobody uses its streams any more; it has ended."""
        async with self._writing:
            pass

    async def close_stdin(self) -> None:
        """End of its input."""
        if self._streams.terminal:
            await self.write(_END_OF_INPUT)
            return
        async with self._writing:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._streams.stdin is not None and not self._streams.terminal:
            os.close(self._streams.stdin)
            self._streams.stdin = None


class ExecRunner:
    """Starts processes in containers of one runtime."""

    def __init__(self, runtime: OciRuntime, runtime_root: Path, run_dir: Path) -> None:
        self._runtime = runtime
        self._runtime_root = runtime_root
        self._run_dir = run_dir

    def end_strays(self) -> None:
        """Kill what an earlier daemon's execs left running, whose streams nobody has any more. Once, at start."""
        for place in self._run_dir.glob(f"*/{PREFIX}*"):
            _end_stray(place)

    @contextlib.asynccontextmanager
    async def run(self, container_id: str, container_pid: int, request: ExecRequest) -> AsyncIterator[ExecProcess]:
        """Start it, and follow it inside the block; leaving kills it.

        Raises FailedPrecondition (NOT_RUNNING, COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE), InvalidArgument.
        """
        bundle = self._run_dir / container_id
        process = await asyncio.to_thread(self._process, bundle, container_pid, request)
        async with contextlib.AsyncExitStack() as stack:
            place = bundle / f"{PREFIX}{secrets.token_hex(16)}"
            try:
                place.mkdir(mode=0o700)
            except FileNotFoundError:
                raise _not_running() from None
            stack.callback(_remove, place)
            spec, pid_file = place / "process.json", place / "pid"
            spec.write_bytes(msgspec.json.encode(process))
            logged = place / "log"
            argv = [self._runtime.path, f"--root={self._runtime_root}", *self._runtime.arguments]
            argv += [f"--log={logged}", "--log-format=json"]
            argv += ["exec", "--process", str(spec), "--pid-file", str(pid_file), container_id]
            with Inotify() as notices:
                # crun writes the file, runc moves it there.
                notices.add_watch(place, Mask.CLOSE_WRITE | Mask.MOVED_TO)
                child, streams = await _spawn(argv, request, stack)
                pid = await _started(child, pid_file, notices, lambda: _failure(request, streams, logged))
            started = ExecProcess(child, pid, streams)
            pump = asyncio.create_task(_pump(child, streams, started, request))
            try:
                yield started
            finally:
                started.end()
                pump.cancel()
                await asyncio.wait([pump])
                started.output.close()
                started.set_exit(128 + signal.SIGKILL)
                # Before the descriptors are closed and their numbers used for something else.
                await to_end(started.release())

    def _process(self, bundle: Path, container_pid: int, request: ExecRequest) -> dict[str, object]:
        try:
            config = msgspec.json.decode((bundle / "config.json").read_bytes())
        except FileNotFoundError:
            raise _not_running() from None
        # The kernel's own way into what the container sees now, mounts included.
        root = Path(f"/proc/{container_pid}/root")
        try:
            first = config["process"]["user"]
            user = resolve_user(request.user or f"{first['uid']}:{first['gid']}", root)
            if not request.user:
                user = msgspec.structs.replace(user, additional_gids=tuple(first.get("additionalGids", ())))
            process = exec_process(config, request, user)
            check_working_dir(root, {"process": process, "mounts": ()})
        except ShoalError as error:
            if error.reason == "PATH_NOT_FOUND":
                raise _not_running() from error
            raise
        return process


def _not_running() -> FailedPrecondition:
    return FailedPrecondition("the container is not running", reason="NOT_RUNNING")


def _remove(place: Path) -> None:
    with contextlib.suppress(ShoalError, FileNotFoundError):
        remove_tree(place)


async def _spawn(argv: list[str], request: ExecRequest, stack: contextlib.AsyncExitStack) -> tuple[Process, _Streams]:
    with contextlib.ExitStack() as theirs:

        def opened(pair: tuple[int, int]) -> tuple[int, int]:
            theirs.callback(os.close, pair[1])
            return pair

        if request.tty:
            ours, terminal = opened(open_terminal(request.rows, request.columns))
            stack.callback(os.close, ours)
            stdin: int | None = ours
            stdout = ours
            ends = (terminal, terminal)
        else:
            stdin, reading = opened(open_pipe(to_process=True))
            if not request.stdin_open or request.detach:
                os.close(stdin)
                stdin = None
            stdout, writing = opened(open_pipe(to_process=False))
            stack.callback(os.close, stdout)
            ends = (reading, writing)
        stderr, errors = opened(open_pipe(to_process=False))
        stack.callback(os.close, stderr)
        streams = _Streams(stdin, stdout, stderr, request.tty)
        if not request.tty:
            stack.callback(_close_stdin, streams)
        child = await spawn(argv, stdin=ends[0], stdout=ends[1], stderr=errors, cwd="/")
        return await stack.enter_async_context(child), streams


def _close_stdin(streams: _Streams) -> None:
    if streams.stdin is not None:
        os.close(streams.stdin)
        streams.stdin = None


async def _started(
    child: Process, pid_file: Path, notices: Inotify, failure: Callable[[], Awaitable[ShoalError]]
) -> int:
    """Wait until the runtime has written the pid; its error otherwise."""
    ending = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                notice = asyncio.ensure_future(notices.get())
                try:
                    await asyncio.wait({ending, notice}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    notice.cancel()
                    await asyncio.wait({notice})
                with contextlib.suppress(FileNotFoundError, ValueError):
                    return int(pid_file.read_text())
                if ending.done():
                    raise await failure()
    except TimeoutError:
        raise DeadlineExceeded(
            f"the runtime did not start the process within {START_TIMEOUT_S:g} s", reason="RUNTIME_TIMEOUT"
        ) from None
    finally:
        ending.cancel()


async def _failure(request: ExecRequest, streams: _Streams, logged: Path) -> ShoalError:
    """What the runtime has to say of why there is no process."""
    text = b""
    while len(text) < CHUNK and (data := await read_some(streams.stderr, CHUNK)):
        text += data
    with contextlib.suppress(FileNotFoundError), logged.open("rb") as file:
        text = errors_in(file.read(CHUNK)).encode() or text
    message = text.decode(errors="replace")
    return runtime_error(message, command=request.args[0], working_dir=request.working_dir)


async def _pump(child: Process, streams: _Streams, started: ExecProcess, request: ExecRequest) -> None:
    """Bring output into the buffer until the process and its streams have ended."""
    output = None if request.detach else started.output
    pumps = [
        asyncio.create_task(_pump_stream(streams.stdout, False, output)),
        asyncio.create_task(_pump_stream(streams.stderr, True, output)),
    ]
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


async def _pump_stream(fd: int, stderr: bool, output: ExecBuffer | None) -> None:
    while data := await read_some(fd, CHUNK):
        if output is not None:
            await output.put(stderr, data)
        else:
            await asyncio.sleep(0)


def _end_stray(place: Path) -> None:
    pid_file = place / "pid"
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        start = process_start_time(pid)
        # Written after the process began: an older process is the one, a younger one only has its number.
        if start is not None and _started_before(start, pid_file):
            signal_session(pid, start, signal.SIGKILL)
    _remove(place)


def _started_before(start_ticks: int, pid_file: Path) -> bool:
    boot = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    return boot + start_ticks / os.sysconf("SC_CLK_TCK") <= pid_file.stat().st_mtime + 1.0
