"""A container runtime without containers, for tests of what stands above it.

It passes the portable part of the contract suite (tests/contract/test_runtime.py). "Programs" are Python coroutines,
chosen by the first word of the arguments: see `FakeRuntime.programs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.limits import LimitFile
from shoald.runtime.ports import Bundle, Created, Exit

_PIDS = itertools.count(1_000_000)


@dataclass
class FakeProcess:
    """A running program: its input, its output, its signals."""

    bundle: Bundle
    pid: int = field(default_factory=lambda: next(_PIDS))
    started: bool = False
    stdin: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    stdin_closed: bool = False
    signals: list[int] = field(default_factory=list)
    size: tuple[int, int] | None = None
    task: asyncio.Task[None] | None = None

    def print(self, data: bytes, *, stderr: bool = False) -> None:
        """Write whole lines to the log, as conmon does."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").encode() + b"000+00:00"
        with open(self.bundle.log_path, "ab") as log:
            for line in data.splitlines(keepends=True):
                kind = b"F" if line.endswith(b"\n") else b"P"
                stream = b"stderr" if stderr else b"stdout"
                log.write(b"%s %s %s %s\n" % (stamp, stream, kind, line.removesuffix(b"\n")))


Program = Callable[[FakeProcess, tuple[str, ...]], Awaitable[int]]


async def _true(_process: FakeProcess, _args: tuple[str, ...]) -> int:
    return 0


async def _exit(_process: FakeProcess, args: tuple[str, ...]) -> int:
    return int(args[0])


async def _echo(process: FakeProcess, args: tuple[str, ...]) -> int:
    process.print(" ".join(args).encode() + b"\n")
    return 0


async def _sleep(_process: FakeProcess, args: tuple[str, ...]) -> int:
    await asyncio.sleep(float(args[0]))
    return 0


async def _cat(process: FakeProcess, _args: tuple[str, ...]) -> int:
    while data := await process.stdin.get():
        process.print(data)
    return 0


@dataclass
class _Writer:
    process: FakeProcess
    runtime: FakeRuntime

    async def write(self, data: bytes) -> None:
        """Give input."""
        if self.process.bundle.container_id not in self.runtime.running:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        if self.process.stdin_closed:
            raise FailedPrecondition("the container's standard input is closed", reason="STDIN_CLOSED")
        await self.process.stdin.put(data)

    async def close(self) -> None:
        """End of input."""
        if not self.process.stdin_closed:
            self.process.stdin_closed = True
            await self.process.stdin.put(b"")


class FakeRuntime:
    """Implements `ContainerRuntime` in memory. `fail` names a method to raise an error from, once."""

    name = "/usr/bin/fake"

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self.running: dict[str, FakeProcess] = {}
        self.ended: dict[str, Exit] = {}
        self.deleted: list[str] = []
        self.fail: dict[str, ShoalError] = {}
        self.frozen: set[str] = set()
        self.limits: dict[str, list[LimitFile]] = {}
        self._watchers: list[asyncio.Queue[Exit]] = []
        self.programs: dict[str, Program] = {
            "true": _true,
            "exit": _exit,
            "echo": _echo,
            "sleep": _sleep,
            "cat": _cat,
        }

    def bundle_dir(self, container_id: str) -> Path:
        """Real directories, so that mounts of tests have a place."""
        directory = self._run_dir / container_id
        (directory / "rootfs").mkdir(parents=True, exist_ok=True)
        return directory

    async def create(self, bundle: Bundle) -> Created:
        """Prepare a program."""
        await asyncio.sleep(0)
        self._maybe_fail("create")
        args = bundle.config["process"]["args"]
        if Path(args[0]).name not in self.programs:
            raise FailedPrecondition(f"{args[0]!r} was not found in the container", reason="COMMAND_NOT_FOUND")
        self.ended.pop(bundle.container_id, None)
        process = self.running[bundle.container_id] = FakeProcess(bundle)
        bundle.log_path.touch()
        return Created(process.pid, 1)

    async def start(self, container_id: str) -> None:
        """Let it run."""
        await asyncio.sleep(0)
        try:
            self._maybe_fail("start")
        except ShoalError:
            self.running.pop(container_id, None)
            raise
        process = self.running[container_id]
        process.started = True
        process.task = asyncio.ensure_future(self._run(process))
        # A task that is cancelled before its first step never runs: its end is noted all the same.
        process.task.add_done_callback(lambda _: self._end(process, 128 + (process.signals or [9])[-1]))

    async def _run(self, process: FakeProcess) -> None:
        name, *args = process.bundle.config["process"]["args"]
        try:
            code = await self.programs[Path(name).name](process, tuple(args))
        except asyncio.CancelledError:
            code = 128 + (process.signals[-1] if process.signals else 9)
        self._end(process, code)

    def _end(self, process: FakeProcess, code: int, *, oom: bool = False) -> None:
        container_id = process.bundle.container_id
        if self.running.get(container_id) is process:
            del self.running[container_id]
            self.frozen.discard(container_id)
            ended = self.ended[container_id] = Exit(container_id, code, oom, time.time_ns())
            for watcher in self._watchers:
                watcher.put_nowait(ended)

    def _maybe_fail(self, method: str) -> None:
        error = self.fail.pop(method, None)
        if error is not None:
            raise error

    async def kill(self, container_id: str, signal: int) -> bool:
        """Every signal ends a program here."""
        process = self.running.get(container_id)
        if process is None:
            return False
        process.signals.append(signal)
        if container_id in self.frozen:
            return True
        if process.task is None:
            self._end(process, 128 + signal)
        else:
            process.task.cancel()
        return True

    async def kill_all(self, container_id: str) -> None:
        """SIGKILL."""
        self.frozen.discard(container_id)
        await self.kill(container_id, 9)

    async def pause(self, container_id: str) -> None:
        """A program goes on, but takes no signals."""
        await asyncio.sleep(0)
        self._maybe_fail("pause")
        if container_id not in self.running:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        self.frozen.add(container_id)

    async def resume(self, container_id: str) -> None:
        """It takes the signals that have come meanwhile."""
        await asyncio.sleep(0)
        self._maybe_fail("resume")
        process = self.running.get(container_id)
        if process is None:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        self.frozen.discard(container_id)
        if process.signals and process.task is not None:
            process.task.cancel()

    def paused(self, container_id: str) -> bool:
        """As noted."""
        return container_id in self.frozen

    async def set_limits(self, container_id: str, values: Sequence[LimitFile], memory_bytes: int = 0) -> None:
        """Noted in `limits`."""
        self._maybe_fail("set_limits")
        if container_id not in self.running:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        self.limits.setdefault(container_id, []).extend(values)

    async def delete(self, container_id: str) -> None:
        """Forget."""
        process = self.running.get(container_id)
        self.frozen.discard(container_id)
        if process is not None:
            await self.kill(container_id, 9)
            if process.task is not None:
                await asyncio.gather(process.task, return_exceptions=True)
            self.running.pop(container_id, None)
        self.ended.pop(container_id, None)
        self.deleted.append(container_id)
        for directory in (self._run_dir / container_id / "rootfs", self._run_dir / container_id):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def exit_of(self, container_id: str) -> Exit | None:
        """As noted."""
        return self.ended.get(container_id)

    def exits(self) -> AsyncIterator[Exit]:
        """From now on."""
        queue: asyncio.Queue[Exit] = asyncio.Queue()
        self._watchers.append(queue)

        async def iterate() -> AsyncIterator[Exit]:
            try:
                while True:
                    yield await queue.get()
            finally:
                self._watchers.remove(queue)

        return iterate()

    def running_pid(self, container_id: str) -> Created | None:
        """While it runs."""
        process = self.running.get(container_id)
        return None if process is None else Created(process.pid, 1)

    async def is_started(self, container_id: str) -> bool:
        """Whether start() happened."""
        process = self.running.get(container_id)
        return process is not None and process.started

    @contextlib.asynccontextmanager
    async def attach_stdin(self, container_id: str) -> AsyncIterator[_Writer]:
        """Input of a running program."""
        process = self.running.get(container_id)
        if process is None:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        if not process.bundle.stdin_open:
            raise FailedPrecondition("the container's standard input is closed", reason="STDIN_CLOSED")
        yield _Writer(process, self)

    async def reopen_log(self, container_id: str) -> bool:
        """A new, empty one."""
        process = self.running.get(container_id)
        if process is None:
            return False
        process.bundle.log_path.write_bytes(b"")
        return True

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Noted in `FakeProcess.size`."""
        process = self.running.get(container_id)
        if process is None:
            raise FailedPrecondition("the container is not running", reason="NOT_RUNNING")
        process.size = (rows, columns)
