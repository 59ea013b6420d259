"""Standard input of containers through conmon's attach socket.

conmon closes a container's input as soon as one of its clients ends. So there is one connection a container, shared by
all who are attached, that ends only when someone closes the input on purpose. It also outlives the daemon: a copy of
its descriptor waits, unread, in the queue of a datagram socket that conmon holds open (`hold`); the kernel keeps the
connection alive as long as that queue, and shutdown() reaches it all the same.

Output is read from the log, never from here: the connection's receiving side is shut down, so conmon stops writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from shoal.errors import FailedPrecondition
from shoald.runtime.bundle import ContainerFiles, RunDirectory

_CHUNK = 8 << 10
"""conmon reads at most 32 KiB of a packet and drops the rest."""

_END_OF_TRANSMISSION = b"\x04"


@contextlib.contextmanager
def hold_socket(files: ContainerFiles) -> Iterator[socket.socket]:
    """A bound datagram socket, for conmon to inherit and never read; see above."""
    hold = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with hold, _short_path(files, "hold") as path:
        hold.bind(path)
        os.chmod(path, 0o600)
        yield hold


@contextlib.contextmanager
def _short_path(files: ContainerFiles, name: str) -> Iterator[str]:
    """A path that fits into sun_path (108 bytes) however deep the run directory is."""
    fd = os.open(files.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _not_running() -> FailedPrecondition:
    return FailedPrecondition("the container is not running", reason="NOT_RUNNING")


def _closed() -> FailedPrecondition:
    return FailedPrecondition("the container's standard input is closed", reason="STDIN_CLOSED")


@dataclass(slots=True)
class StdinConnection:
    """The one connection to a container's input. Implements `StdinWriter`."""

    connection: socket.socket
    terminal: bool
    closed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sending: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Write all; waits while the container does not read. Packets of several writers do not mix within 8 KiB."""
        view = memoryview(data)
        loop = asyncio.get_running_loop()
        for start in range(0, len(view), _CHUNK):
            async with self.lock:
                if self.closed:
                    raise _closed()
                self.sending = asyncio.ensure_future(loop.sock_sendall(self.connection, view[start : start + _CHUNK]))
                try:
                    await self.sending
                except OSError as error:
                    raise _not_running() from error
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if self.closed and task is not None and not task.cancelling():
                        raise _not_running() from None  # `release` gave up the sending, not the caller
                    raise

    async def close(self) -> None:
        """End of input, after all that was written. A terminal gets the character that means it (^D)."""
        if self.terminal:
            with contextlib.suppress(FailedPrecondition):
                await self.write(_END_OF_TRANSMISSION)
            return
        async with self.lock:
            if not self.closed:
                self.closed = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Close our descriptor, and nobody else's: the event loop must have forgotten its number before that."""
        self.closed = True
        if self.sending is None or self.sending.done():
            self.connection.close()
            return
        self.sending.add_done_callback(lambda _: self.connection.close())
        self.sending.cancel()


class StdinConnections:
    """Connections by container id, made when first needed."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._open: dict[str, StdinConnection] = {}

    @contextlib.asynccontextmanager
    async def attach(self, container_id: str) -> AsyncIterator[StdinConnection]:
        """The connection, for one client. Raises FailedPrecondition (NOT_RUNNING, STDIN_CLOSED)."""
        yield self._connection(self._directory.container(container_id))

    def drop(self, container_id: str) -> None:
        """Forget a container that has ended."""
        connection = self._open.pop(container_id, None)
        if connection is not None:
            connection.release()

    def close(self) -> None:
        """Let go of all connections; those that conmon holds stay open."""
        for container_id in list(self._open):
            self.drop(container_id)

    def _connection(self, files: ContainerFiles) -> StdinConnection:
        known = self._open.get(files.container_id)
        if known is not None:
            return known
        noted = files.monitored()
        if noted is None:
            raise _not_running()
        if not noted.stdin_open:
            raise _closed()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setblocking(False)
            with _short_path(files, "attach") as path:
                connection.connect(path)
            connection.shutdown(socket.SHUT_RD)
            _keep_alive(files, connection)
        except OSError as error:
            connection.close()
            raise _not_running() from error
        made = self._open[files.container_id] = StdinConnection(connection, noted.terminal)
        return made


def _keep_alive(files: ContainerFiles, connection: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, _short_path(files, "hold") as path:
        sender.setblocking(False)
        sender.connect(path)
        socket.send_fds(sender, [b"\0"], [connection.fileno()])
