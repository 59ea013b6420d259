"""The daemons of a sandbox as processes: each outlives whoever started it, and is found again by its lock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import tomlkit

from shoal.errors import FailedPrecondition
from shoald import lock
from shoald.api.probe import healthy
from shoald.config import Config
from shoald.host.pid import process_start_time, send_signal, wait_process
from shoald.host.process import spawn
from shoald.sandbox.plan import PlannedHost

_READY_S = 60.0
_POLL_S = 0.05
_STOP_S = 20.0
_LOG_TAIL = 2000


class StartedDaemon:
    """A daemon that was started here. `ended` completes when its process is gone, whoever killed it."""

    def __init__(self, host: PlannedHost, alive: int) -> None:
        self.host = host
        self._alive = alive
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(alive, self._end)

    def _end(self) -> None:
        self.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Look no longer; the daemon goes on."""
        if self._alive >= 0:
            asyncio.get_running_loop().remove_reader(self._alive)
            os.close(self._alive)
            self._alive = -1


async def start(host: PlannedHost) -> StartedDaemon:
    """Start the daemon in a session of its own, as a child of nobody."""
    # The daemon holds the write end of a pipe that nobody writes to: the read end tells when it is gone.
    alive, held = os.pipe()
    try:
        log = os.open(host.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            argv = ["setsid", "--fork", sys.executable, "-m", "shoald", "serve", "--config", str(host.config_file)]
            async with await spawn(argv, stderr=log, stdout=log, pass_fds=[held], cwd="/") as forker:
                await forker.wait()
        finally:
            os.close(log)
    except BaseException:
        os.close(alive)
        raise
    finally:
        os.close(held)
    return StartedDaemon(host, alive)


async def wait_ready(daemon: StartedDaemon, admin: Mapping[str, bytes]) -> None:
    """Until it answers over TLS. Raises FailedPrecondition (DAEMON_FAILED) with the end of its log."""
    try:
        async with asyncio.timeout(_READY_S):
            while not await healthy(daemon.host.config.listen[0], **admin):
                if daemon.ended.done():
                    raise _failed(daemon.host, "ended before it was ready")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise _failed(daemon.host, f"was not ready within {_READY_S:g} s") from None


async def stop(config: Config) -> None:
    """End the daemon that runs with this configuration, if any: SIGTERM, and SIGKILL for one that does not obey."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = lock.holder(config.run_dir)
        began = process_start_time(pid) if pid is not None else None
        if pid is None or began is None:
            return
        send_signal(pid, began, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await wait_process(pid, began)
                return


def write_config(host: PlannedHost) -> None:
    """The configuration as the file that the daemon reads."""
    table = msgspec.to_builtins(host.config, enc_hook=str)
    host.config_file.write_text(tomlkit.dumps(_without_none(table)))


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def _failed(host: PlannedHost, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the daemon of {host.name} {what}: {_tail(host.log_file) or 'its log is empty'}",
        reason="DAEMON_FAILED",
        hint=f"try `shoald doctor`; the log was {host.log_file}",
    )


def _tail(file: Path) -> str:
    try:
        return file.read_text(errors="replace")[-_LOG_TAIL:].strip()
    except OSError:
        return ""
