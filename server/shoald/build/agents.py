"""ssh agents of clients, lent to RUN steps: a socket in the step, its connections carried to the client by number.

The agent's protocol is not looked at. When the client's call ends, its connections do; a later call with its handle
serves new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from msgspec import Struct

from shoal.errors import FailedPrecondition
from shoald.host.trees import remove_tree

CHUNK = 32 << 10
WAIT_S = 10.0
"""How long a connection waits for its client, which may be reconnecting."""
_QUEUE = 64
_MAX_CONNECTIONS = 64


class AgentEvent(Struct, frozen=True):
    """For the client: a connection was opened (`data` None), carries bytes, or was closed (b"")."""

    connection: int
    data: bytes | None = None


class Forward:
    """One client's call."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[AgentEvent] = asyncio.Queue(_QUEUE)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._closed = False
        self._numbers = itertools.count(1)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection from its beginning to its end."""
        if self._closed or len(self._writers) >= _MAX_CONNECTIONS:
            return
        number = next(self._numbers)
        self._writers[number] = writer
        try:
            await self.events.put(AgentEvent(number))
            while data := await reader.read(CHUNK):
                await self.events.put(AgentEvent(number, data))
        except OSError:
            pass
        finally:
            if self._writers.pop(number, None) is not None and not self._closed:
                with contextlib.suppress(asyncio.QueueFull):
                    self.events.put_nowait(AgentEvent(number, b""))

    async def answer(self, number: int, data: bytes) -> None:
        """Bytes of the agent for a connection; one that has ended takes none."""
        writer = self._writers.get(number)
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()

    def end(self, number: int) -> None:
        """The agent ended a connection."""
        writer = self._writers.pop(number, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        for number in list(self._writers):
            self.end(number)


class Agents:
    """All that clients lend at this time, by handle."""

    def __init__(self) -> None:
        self._forwards: dict[str, Forward] = {}
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def lent(self, handle: str) -> Iterator[Forward]:
        """A client lends its agent inside the block; in place of an earlier call with the handle."""
        forward = Forward()
        earlier = self._forwards.pop(handle, None)
        if earlier is not None:
            earlier.close()
        self._forwards[handle] = forward
        self._changed.set()
        self._changed = asyncio.Event()
        try:
            yield forward
        finally:
            forward.close()
            if self._forwards.get(handle) is forward:
                del self._forwards[handle]

    async def get(self, handle: str) -> Forward:
        """What is lent under a handle; waits WAIT_S for it. Raises FailedPrecondition (AGENT_MISSING)."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := self._forwards.get(handle)) is None:
                    await self._changed.wait()
        except TimeoutError:
            raise FailedPrecondition(
                "the client does not lend its ssh agent any more",
                reason="AGENT_MISSING",
                hint="a build with --ssh needs its client to the end",
            ) from None
        return found

    @contextlib.asynccontextmanager
    async def socket(self, handle: str, directory: Path, owner: tuple[int, int], mode: int) -> AsyncIterator[Path]:
        """A socket that leads to the client, in a new directory below `directory`. Raises FailedPrecondition."""
        await self.get(handle)
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                with contextlib.suppress(FailedPrecondition):
                    await (await self.get(handle)).carry(reader, writer)
            finally:
                connections.discard(task)
                writer.close()

        place = directory / f"agent-{secrets.token_hex(8)}"
        place.mkdir(mode=0o700, parents=True)
        try:
            listening = _bound(place, owner, mode)
            server = await asyncio.start_unix_server(connected, sock=listening)
            try:
                yield place / "socket"
            finally:
                server.close()
                for task in list(connections):
                    task.cancel()
                if connections:
                    await asyncio.wait(connections)
        finally:
            await asyncio.to_thread(remove_tree, place)


def _bound(place: Path, owner: tuple[int, int], mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # However deep the directory is: sun_path has 108 bytes.
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{fd}/socket")
        finally:
            os.close(fd)
        os.chown(place / "socket", *owner)
        os.chmod(place / "socket", mode)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
