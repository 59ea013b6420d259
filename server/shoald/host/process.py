"""Programs that the daemon runs: the only module that spawns.

Every child gets its own session (a Ctrl-C at the daemon's terminal must not reach monitors of containers), a small
fixed environment and no descriptor but those passed on purpose. Children start by vfork: nothing here may need
`preexec_fn`, `user=` or `group=`, which fork and break gRPC's event engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from shoal.errors import DeadlineExceeded, FailedPrecondition, Internal, ResourceExhausted, ShoalError
from shoald.host.blocking import to_end
from shoald.host.pid import pidfd_open, process_alive, process_start_time, send_signal, wait_process
from shoald.host.syscall import failure

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Completed",
    "Process",
    "default_environment",
    "pidfd_open",
    "process_alive",
    "process_start_time",
    "program_failed",
    "run",
    "send_signal",
    "spawn",
    "use_pidfd_watcher",
    "wait_process",
]

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT

DEFAULT_MAX_OUTPUT = 16 << 20
"""Bytes of standard output that `run` captures before it kills the program."""

_STDERR_TAIL = 64 << 10
_STREAM_LIMIT = 1 << 20
_DRAIN_SECONDS = 2.0
_MESSAGE_TAIL = 2000

_INHERITED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
    "DBUS_SYSTEM_BUS_ADDRESS",
)
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PACKAGES = {
    "aardvark-dns": "aardvark-dns",
    "catatonit": "catatonit",
    "conmon": "conmon",
    "crun": "crun",
    "ip": "iproute2",
    "modprobe": "kmod",
    "nft": "nftables",
    "runc": "runc",
    "unshare": "util-linux",
}

_File = int | IO[bytes] | None


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its exit status (negative: killed by that signal) and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes


def default_environment() -> dict[str, str]:
    """The environment of a child when none is given: a fixed list of variables, never the daemon's own.

    NOTIFY_SOCKET in particular must not reach an OCI runtime: it would mount it into the container.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment.setdefault("PATH", _DEFAULT_PATH)
    return environment


def use_pidfd_watcher() -> None:
    """Let asyncio reap children through pidfds instead of one thread a child. Newer Pythons do so by themselves.

    Call it in the main thread, before the event loop or inside of it.
    """
    if sys.version_info < (3, 12):
        watcher = asyncio.PidfdChildWatcher()
        with contextlib.suppress(RuntimeError):
            watcher.attach_loop(asyncio.get_running_loop())
        asyncio.get_event_loop_policy().set_child_watcher(watcher)


def program_failed(argv: Sequence[str], returncode: int, stderr: bytes) -> ShoalError:
    """The error for a program that ended badly: the end of its stderr is the message; reason PROGRAM_FAILED."""
    name = os.path.basename(argv[0])
    how = f"exit status {returncode}" if returncode >= 0 else f"killed by {_signal_name(-returncode)}"
    tail = stderr.decode(errors="replace").strip()[-_MESSAGE_TAIL:]
    metadata = {"program": name, "exit_status": str(returncode)}
    message = f"{name} failed ({how})" + (f": {tail}" if tail else "")
    return Internal(message, reason="PROGRAM_FAILED", metadata=metadata)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Streams(asyncio.subprocess.SubprocessStreamProtocol):
    """asyncio's pipes, plus the exit as such: asyncio's own wait() also waits until everyone closed the pipes."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(limit=_STREAM_LIMIT, loop=loop)
        self.exited: asyncio.Future[None] = loop.create_future()

    def process_exited(self) -> None:
        super().process_exited()
        if not self.exited.done():
            self.exited.set_result(None)


class Process:
    """A running child with its pipes; leave its `async with` block and it is killed (whole session) and reaped."""

    def __init__(self, argv: Sequence[str], transport: asyncio.SubprocessTransport, streams: _Streams) -> None:
        self.argv = tuple(argv)
        self._transport = transport
        self._streams = streams

    @property
    def pid(self) -> int:
        """The process id; also the id of its session and process group."""
        return self._transport.get_pid() or 0

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._transport.get_returncode()

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """The write end of its standard input; it must have been spawned with stdin=PIPE."""
        assert self._streams.stdin is not None
        return self._streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader:
        """The read end of its standard output; it must have been spawned with stdout=PIPE."""
        assert self._streams.stdout is not None
        return self._streams.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        """The read end of its standard error; it must have been spawned with stderr=PIPE."""
        assert self._streams.stderr is not None
        return self._streams.stderr

    async def wait(self) -> int:
        """Wait for its exit; the exit status (negative: signal). Neither reads the pipes nor waits for their end."""
        await asyncio.shield(self._streams.exited)
        returncode = self.returncode
        assert returncode is not None
        return returncode

    def send_signal(self, number: int) -> None:
        """Signal the process alone; a process that has ended is left in peace."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the process and all of its process group that did not leave it."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """Kill (when still running), reap, close the pipes; safe to repeat, finishes even when cancelled."""
        self.kill()
        try:
            await to_end(self.wait())
        finally:
            # The pipes close by themselves only at their end, which a grandchild may withhold for ever; and closing a
            # write end would first wait until all is read.
            if self._streams.stdin is not None:
                writing = self._streams.stdin.transport
                if not writing.is_closing() or writing.get_write_buffer_size():
                    writing.abort()
            self._transport.close()

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def spawn(
    argv: Sequence[str],
    *,
    stdin: _File = DEVNULL,
    stdout: _File = DEVNULL,
    stderr: _File = DEVNULL,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: str | os.PathLike[str] | None = None,
) -> Process:
    """Start a program (no shell) in its own session; use it as an async context manager.

    Raises FailedPrecondition PROGRAM_MISSING (with the Debian package as hint) or PROGRAM_NOT_EXECUTABLE. A
    cancellation leaves no process behind.
    """
    program, *arguments = argv
    creation = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            _Streams,
            program,
            *arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=default_environment() if env is None else dict(env),
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            start_new_session=True,
        )
    )
    try:
        return Process(argv, *await asyncio.shield(creation))
    except asyncio.CancelledError:
        await to_end(_discard(argv, creation))
        raise
    except OSError as error:
        raise _not_started(argv, cwd, error) from error


async def _discard(argv: Sequence[str], creation: asyncio.Future[tuple[asyncio.SubprocessTransport, _Streams]]) -> None:
    with contextlib.suppress(OSError):
        await Process(argv, *await creation).aclose()


def _not_started(argv: Sequence[str], cwd: str | os.PathLike[str] | None, error: OSError) -> ShoalError:
    name = os.path.basename(argv[0])
    if cwd is not None and error.filename and os.fspath(error.filename) == os.fspath(cwd):
        return failure(f"start {name}: working directory", error.errno or 0, path=cwd)
    if isinstance(error, FileNotFoundError):
        package = _PACKAGES.get(name)
        hint = f"apt-get install {package}" if package else f"install {name} or correct its path in the configuration"
        return FailedPrecondition(
            f"{argv[0]} is not installed", reason="PROGRAM_MISSING", hint=hint, metadata={"program": name}
        )
    if isinstance(error, PermissionError):
        message = f"{argv[0]} can't be executed: {error.strerror}"
        return FailedPrecondition(message, reason="PROGRAM_NOT_EXECUTABLE", metadata={"program": name})
    return failure(f"start {name}", error.errno or 0, path=argv[0])


async def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002 -- the name that subprocess.run taught everyone
    timeout: float | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: str | os.PathLike[str] | None = None,
    max_output: int = DEFAULT_MAX_OUTPUT,
) -> Completed:
    """Run a program to its end and capture what it writes: stdout whole (at most `max_output` bytes), stderr's end.

    A program that daemonises may leave its pipes open in a child: output is awaited at most 2 s after the exit.
    Raises Internal PROGRAM_FAILED on a non-zero status (unless `check` is False), DeadlineExceeded PROGRAM_TIMEOUT
    after `timeout` seconds, ResourceExhausted OUTPUT_TOO_LARGE, and what `spawn` raises. Killed and reaped when
    cancelled.
    """
    stdin = DEVNULL if input is None else PIPE
    child = await spawn(argv, stdin=stdin, stdout=PIPE, stderr=PIPE, env=env, pass_fds=pass_fds, cwd=cwd)
    async with child:
        try:
            async with asyncio.timeout(timeout):
                completed = await _communicate(child, input, max_output)
        except TimeoutError:
            name = os.path.basename(argv[0])
            message = f"{name} did not end within {timeout:g} s and was killed"
            raise DeadlineExceeded(message, reason="PROGRAM_TIMEOUT", metadata={"program": name}) from None
    if check and completed.returncode != 0:
        raise program_failed(argv, completed.returncode, completed.stderr)
    return completed


async def _communicate(child: Process, data: bytes | None, max_output: int) -> Completed:
    out, err = bytearray(), bytearray()
    ending = asyncio.ensure_future(child.wait())
    pipes: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(_collect(child, out, max_output)),
        asyncio.ensure_future(_collect_tail(child.stderr, err)),
    ]
    if data is not None:
        pipes.append(asyncio.ensure_future(_feed(child.stdin, data)))
    try:
        pending: set[asyncio.Future[Any]] = {ending, *pipes}
        while not ending.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        done, _ = await asyncio.wait(pipes, timeout=_DRAIN_SECONDS)
        for task in done:
            task.result()
        return Completed(ending.result(), bytes(out), bytes(err))
    finally:
        for task in (ending, *pipes):
            task.cancel()
        await asyncio.gather(ending, *pipes, return_exceptions=True)


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    # A program may end without reading its input; its exit status tells the story.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await stdin.wait_closed()


async def _collect(child: Process, into: bytearray, limit: int) -> None:
    while chunk := await child.stdout.read(1 << 16):
        into += chunk
        if len(into) > limit:
            name = os.path.basename(child.argv[0])
            message = f"{name} wrote more than {limit} bytes and was killed"
            raise ResourceExhausted(message, reason="OUTPUT_TOO_LARGE", metadata={"program": name})


async def _collect_tail(stream: asyncio.StreamReader, into: bytearray) -> None:
    while chunk := await stream.read(1 << 16):
        into += chunk
        if len(into) > 2 * _STDERR_TAIL:
            del into[:-_STDERR_TAIL]
