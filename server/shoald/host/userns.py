"""User namespaces that only carry an id mapping, for idmapped mounts."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from shoal.errors import Internal, InvalidArgument
from shoald.host.process import PIPE, Process, program_failed, spawn
from shoald.host.syscall import failure, translated

_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class IdMap:
    """Ids inner..inner+size-1 appear as outer..outer+size-1; the same for users and groups.

    For an idmapped mount `inner` is the first id on disk and `outer` the first id that the host sees through the mount:
    a layer stored with plain ids, for a container whose root is host id 200000, is IdMap(0, 200000, 65536).
    """

    inner: int
    outer: int
    size: int

    def __post_init__(self) -> None:
        # The kernel refuses 4294967295 (the "no id" value).
        if min(self.inner, self.outer) < 0 or self.size < 1 or max(self.inner, self.outer) + self.size > 0xFFFFFFFF:
            raise InvalidArgument(f"bad id map {self.inner} {self.outer} {self.size}", reason="INVALID_ID_MAP")

    @property
    def identity(self) -> bool:
        """True when the map changes nothing."""
        return self.inner == self.outer


@dataclass(slots=True)
class _Entry:
    fd: int
    pins: int = 0


@dataclass(slots=True)
class UserNamespaces:
    """A cache of user namespace descriptors by mapping; the least recently used of the idle ones go beyond `capacity`.

    A namespace is made by a short-lived `unshare` program (about 3 ms); the descriptor alone keeps it alive.
    """

    capacity: int = 256
    _entries: OrderedDict[IdMap, _Entry] = field(default_factory=OrderedDict)
    _making: dict[IdMap, asyncio.Task[int]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def hold(self, idmaps: Iterable[IdMap]) -> AsyncIterator[Mapping[IdMap, int]]:
        """Descriptors for all `idmaps`, valid (never closed by the cache) inside the `async with` block.

        Raises FailedPrecondition PROGRAM_MISSING, ResourceExhausted TOO_MANY_USER_NAMESPACES, Internal.
        """
        held: dict[IdMap, _Entry] = {}
        try:
            for idmap in idmaps:
                if idmap not in held:
                    entry = await self._entry(idmap)
                    entry.pins += 1
                    held[idmap] = entry
            yield {idmap: entry.fd for idmap, entry in held.items()}
        finally:
            for entry in held.values():
                entry.pins -= 1
            self._shrink()

    async def fd(self, idmap: IdMap) -> int:
        """A new descriptor of a user namespace with this mapping; the caller closes it. Raises as `hold` does."""
        async with self.hold([idmap]) as fds:
            return os.dup(fds[idmap])

    async def _entry(self, idmap: IdMap) -> _Entry:
        while (entry := self._entries.get(idmap)) is None:
            making = self._making.get(idmap)
            if making is None:
                making = self._making[idmap] = asyncio.ensure_future(self._make(idmap))
                making.add_done_callback(partial(self._made, idmap))
            # Shielded: another caller may wait for the same namespace. The task ends by itself within _START_SECONDS.
            await asyncio.shield(making)
        self._entries.move_to_end(idmap)
        return entry

    def _made(self, idmap: IdMap, making: asyncio.Task[int]) -> None:
        del self._making[idmap]
        if not making.cancelled():
            # Looked at, so that a failure is no warning when every caller was cancelled meanwhile.
            making.exception()

    async def _make(self, idmap: IdMap) -> int:
        fd = await make_user_namespace(idmap)
        self._entries[idmap] = _Entry(fd)
        return fd

    def _shrink(self) -> None:
        idle = [idmap for idmap, entry in self._entries.items() if entry.pins == 0]
        for idmap in idle[: max(0, len(self._entries) - self.capacity)]:
            os.close(self._entries.pop(idmap).fd)

    async def aclose(self) -> None:
        """Close all descriptors. Mounts made with them stay as they are."""
        while self._making:
            await asyncio.gather(*self._making.values(), return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Close all descriptors now; only when no `hold` is running (else use `aclose`)."""
        while self._entries:
            os.close(self._entries.popitem()[1].fd)


async def make_user_namespace(idmap: IdMap) -> int:
    """Make a user namespace whose uid_map and gid_map are `inner outer size`; the descriptor is the caller's to close.

    The program that makes it is gone when this returns, on failure and on cancellation too.
    """
    child = await spawn(["unshare", "--user", "--", "cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    async with child:
        await _wait_unshared(child)
        mapping = f"{idmap.inner} {idmap.outer} {idmap.size}\n"
        for name in ("uid_map", "gid_map"):
            path = f"/proc/{child.pid}/{name}"
            with translated(f"write {mapping.strip()!r} to", path), open(path, "w", encoding="ascii") as file:
                file.write(mapping)
        path = f"/proc/{child.pid}/ns/user"
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise failure("open user namespace", error.errno or 0, path=path) from error


async def _wait_unshared(child: Process) -> None:
    """An echoed byte proves that `cat` runs, hence that the namespace exists."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(b"\n")
        await child.stdin.drain()
    try:
        async with asyncio.timeout(_START_SECONDS):
            if await child.stdout.read(1):
                return
            stderr = await child.stderr.read(4096)
            raise program_failed(child.argv, await child.wait(), stderr)
    except TimeoutError:
        raise Internal("unshare did not start in time", reason="PROGRAM_TIMEOUT") from None
