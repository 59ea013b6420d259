"""Names of containers: aardvark-dns, one process a daemon, with a file for each network.

Each file holds the addresses to listen on, and a line for each container: id, IPv4 and IPv6 addresses, names, resolvers
of its own. The program detaches itself, reads its files again at SIGHUP, and ends when there are none. It outlives the
daemon, as containers do; the next one finds it by its command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.blocking import in_thread
from shoald.host.process import process_start_time, run, send_signal, wait_process
from shoald.host.syscall import translated
from shoald.network.sockets import udp_listeners

log = structlog.get_logger(__name__)

NOWHERE = "255.255.255.255"
"""A resolver to which the kernel lets nobody send without having asked for broadcasts: no query leaves the host, which
would be a way out of an internal network (CVE-2024-29018). Version 1.4 then lets the asker wait in vain."""
PLACES = ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns")
PORT = 53
OFF = "off"
DNS_DIRECTORY = "dns"
"""Its files, in the run directory."""
_INTERNAL = "%int"
"""What versions from 1.6 on know an internal network by."""
_START_TIMEOUT_S = 20.0
_END_WAIT_S = 5.0
_RESTART_DELAYS_S = (0.0, 0.2, 1.0, 5.0)
_LISTEN_WAIT_S = 2.0
_RELOAD_WAIT_S = 0.25


@dataclass(frozen=True)
class Entry:
    """A container in a network."""

    container_id: str
    addresses: tuple[str, ...]
    addresses6: tuple[str, ...]
    names: tuple[str, ...]
    resolvers: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """As aardvark-dns reads it."""
        parts = [self.container_id, ",".join(self.addresses), ",".join(self.addresses6), ",".join(self.names)]
        return " ".join([*parts, ",".join(self.resolvers)] if self.resolvers else parts)


@dataclass(frozen=True)
class Zone:
    """A network with its containers."""

    network_id: str
    listen: tuple[str, ...]
    internal: bool
    entries: tuple[Entry, ...]

    @property
    def file(self) -> str:
        """Name of its file."""
        return self.network_id + (_INTERNAL if self.internal else "")

    @property
    def text(self) -> str:
        """Content of its file."""
        head = ",".join(self.listen) + (f" {NOWHERE}" if self.internal else "")
        return "".join(f"{line}\n" for line in (head, *(entry.line for entry in self.entries)))


def find_program(configured: str) -> str:
    """Path of aardvark-dns; "" when there is none, or it is not wanted."""
    if configured:
        return "" if configured == OFF else configured
    places = [*(f"{directory}/aardvark-dns" for directory in os.environ.get("PATH", "").split(":")), *PLACES]
    return next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), "")


class NameServer:
    """The process and its files. `zones` tells what they should hold."""

    def __init__(self, directory: Path, program: str, zones: Callable[[], Sequence[Zone]]) -> None:
        self._directory = directory
        self._program = program
        self._zones = zones
        self._lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._wanted = 0
        self._done = 0

    @property
    def available(self) -> bool:
        """Whether names can be resolved on this host."""
        return bool(self._program)

    def command(self) -> list[str]:
        """What runs."""
        return command(self._program, self._directory)

    async def update(self) -> None:
        """Bring files and process to what `zones` says. Calls that come while one is under way are answered together by
        the next. Raises FailedPrecondition (DNS_FAILED)."""
        if not self._program:
            return
        self._wanted += 1
        number = self._wanted
        async with self._lock:
            if self._done >= number:
                return
            covers = self._wanted
            await self._bring_about()
            self._done = covers

    async def _bring_about(self) -> None:
        zones = [zone for zone in self._zones() if zone.entries]
        wanted = {zone.file: zone.text for zone in zones}
        changed = await in_thread(lambda: self._write(wanted))
        found = await in_thread(self._running)
        if not zones:
            self._stop_watching()
            await in_thread(lambda: end(self._directory))
            return
        before = await in_thread(lambda: udp_listeners(PORT))
        if found is None:
            found = await self._start()
            before = {}
        elif changed:
            send_signal(*found, signal.SIGHUP)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_process(*found), name="aardvark-dns")
        if changed:
            await _listening([address for zone in zones for address in zone.listen], before)

    def _write(self, wanted: Mapping[str, str]) -> bool:
        """Make the files; whether anything changed."""
        changed = False
        with translated("write names of networks", self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in list(os.scandir(self._directory)):
                if entry.name not in wanted and entry.name != "aardvark.pid":
                    os.unlink(entry.path)
                    changed = True
            for name, text in wanted.items():
                path = self._directory / name
                with contextlib.suppress(FileNotFoundError):
                    if path.read_text() == text:
                        continue
                # Not in the directory itself, all files of which are read.
                new = self._directory.with_name(self._directory.name + ".new")
                new.write_text(text)
                new.rename(path)
                changed = True
        return changed

    def _running(self) -> tuple[int, int] | None:
        return running(self._directory)

    async def _start(self) -> tuple[int, int]:
        """The program answers by its end that its child serves."""
        done = await run(self.command(), timeout=_START_TIMEOUT_S, check=False)
        found = await in_thread(self._running)
        if done.returncode != 0 or found is None:
            message = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            raise FailedPrecondition(
                f"aardvark-dns does not start, containers can't be found by name: {message}",
                reason="DNS_FAILED",
                hint=f"does another program listen on port {PORT} of all addresses? ss -lnup 'sport = :{PORT}'",
            )
        return found

    async def _watch_process(self, pid: int, start_time: int) -> None:
        """Start it again when it dies."""
        await wait_process(pid, start_time)
        self._watch = None
        for delay_s in (*_RESTART_DELAYS_S, *[_RESTART_DELAYS_S[-1]] * 1000):
            await asyncio.sleep(delay_s)
            try:
                async with self._lock:
                    await self._bring_about()
                return
            except ShoalError as error:
                log.error("dns_not_restarted", error=str(error))

    def _stop_watching(self) -> None:
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        self._watch = None

    async def close(self) -> None:
        """Stop watching; the process goes on."""
        watch = self._watch
        self._stop_watching()
        if watch is not None:
            await asyncio.wait([watch])

    async def teardown(self) -> None:
        """End the process."""
        await self.close()
        await in_thread(lambda: end(self._directory))


def command(program: str, directory: Path) -> list[str]:
    """The command line, by which it is also found again."""
    return [program, "--config", str(directory), "-p", str(PORT), "run"]


def running(directory: Path) -> tuple[int, int] | None:
    """(pid, start time) of the process that serves a directory, or None. Blocks."""
    try:
        pid = int((directory / "aardvark.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, ValueError):
        return None
    if words[1:-1] != command("", directory)[1:]:
        return None  # another program has the number now
    start_time = process_start_time(pid)
    return (pid, start_time) if start_time is not None else None


def end(directory: Path) -> None:
    """End the process that serves a directory, and wait for it. Blocks."""
    found = running(directory)
    if found is not None:
        send_signal(*found, signal.SIGTERM)
        deadline = time.monotonic() + _END_WAIT_S
        while running(directory) is not None and time.monotonic() < deadline:
            time.sleep(0.005)
        if running(directory) is not None:
            send_signal(*found, signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        (directory / "aardvark.pid").unlink()


async def _listening(addresses: Sequence[str], before: Mapping[str, int]) -> None:
    """Wait a moment until the server has taken up its files, after the signal has returned: then it listens there, and
    with other sockets than before. (Versions that keep their sockets are waited for as long as this may take.)"""
    begin = asyncio.get_running_loop().time()
    while True:
        now = await in_thread(lambda: udp_listeners(PORT))
        waited_s = asyncio.get_running_loop().time() - begin
        there = all(address in now for address in addresses)
        if there and (waited_s > _RELOAD_WAIT_S or all(now[a] != before.get(a) for a in addresses)):
            return
        if waited_s > _LISTEN_WAIT_S:
            log.warning("dns_does_not_listen", addresses=list(addresses))
            return
        await asyncio.sleep(0.001)
