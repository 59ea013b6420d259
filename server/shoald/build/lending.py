"""Caches on clients' disks, lent to builds: a blob comes over the client's call when a build wants it.

What comes is checked as what comes from a registry is, by those who fetch it. When the client's call ends, a later one
with its handle goes on at the byte where it broke off.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

from msgspec import Struct

from shoal.errors import DataLoss, NotFound, Unavailable
from shoal.reference import Reference
from shoald.model.build import LentCache
from shoald.oci.manifest import Descriptor
from shoald.oci.parse import MAX_MANIFEST_BYTES
from shoald.registry.ports import Credentials, Resolved
from shoald.registry.verify import read_blob

WAIT_S = 30.0
"""How long a build waits for its client, which may be reconnecting."""
STALL_S = 60.0
"""How long a chunk may take."""
_AHEAD = 2
"""Chunks that wait for whoever takes them."""


class Want(Struct, frozen=True):
    """For the client: send this blob from byte `offset` on."""

    number: int
    digest: str
    offset: int


class _Lost(Exception):
    """The client's call has ended."""


class _Transfer:
    """A blob that comes in, between the call and whoever takes it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended = False
        self._pieces: deque[bytes] = deque()
        self._error = ""
        self._lost = False
        self._left = False
        self._there = asyncio.Event()
        self._room = asyncio.Event()

    async def give(self, data: bytes) -> None:
        """A chunk; waits until it is wanted. After the end, or when nobody takes any, it is dropped."""
        while len(self._pieces) >= _AHEAD and not self._left:
            self._room.clear()
            await self._room.wait()
        if not self._left and not self.ended:
            self._pieces.append(data)
            self._there.set()

    def end(self, error: str) -> None:
        """All was sent, or no more can be."""
        self.ended, self._error = True, error
        self._there.set()

    def lose(self) -> None:
        """The call is over."""
        self._lost = True
        self._there.set()

    def leave(self) -> None:
        """Nobody takes any more."""
        self._left = True
        self._room.set()

    async def next(self) -> bytes | None:
        """The next chunk; None at the end. Raises _Lost, NotFound (BLOB_NOT_FOUND), Unavailable (CLIENT_SILENT)."""
        try:
            async with asyncio.timeout(STALL_S):
                while not self._pieces and not self._lost and not self.ended:
                    self._there.clear()
                    await self._there.wait()
        except TimeoutError:
            raise Unavailable(f"the client has sent nothing for {STALL_S:.0f} s", reason="CLIENT_SILENT") from None
        if self._pieces:
            self._room.set()
            return self._pieces.popleft()
        if self._error:
            raise NotFound(f"the client can't send it: {self._error}", reason="BLOB_NOT_FOUND")
        if not self.ended:
            raise _Lost
        return None


class Loan:
    """One client's call: blobs come one after the other."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[Want | int] = asyncio.Queue()
        """For the client: what is wanted, and the number of what is not wanted any more."""
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._transfer: _Transfer | None = None
        self._closed = False

    async def blob(self, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        """A blob's bytes from `offset` on, as the client has them. Raises as _Transfer.next."""
        async with self._turn:
            if self._closed:
                raise _Lost
            transfer = self._transfer = _Transfer(next(self._numbers))
            self.orders.put_nowait(Want(transfer.number, digest, offset))
            try:
                while (piece := await transfer.next()) is not None:
                    yield piece
            finally:
                self._transfer = None
                transfer.leave()
                if not transfer.ended:
                    self.orders.put_nowait(transfer.number)

    async def take(self, number: int, data: bytes) -> None:
        """A chunk from the client."""
        if self._transfer is not None and self._transfer.number == number:
            await self._transfer.give(data)

    def end(self, number: int, error: str) -> None:
        """The client has sent all of a blob, or can't."""
        if self._transfer is not None and self._transfer.number == number:
            self._transfer.end(error)

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        if self._transfer is not None:
            self._transfer.lose()


class CacheLenders:
    """All that clients lend at this time, by handle."""

    def __init__(self) -> None:
        self._loans: dict[str, Loan] = {}
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def lent(self, handle: str) -> Iterator[Loan]:
        """A client lends a cache inside the block; in place of an earlier call with the handle."""
        loan = Loan()
        earlier = self._loans.pop(handle, None)
        if earlier is not None:
            earlier.close()
        self._loans[handle] = loan
        self._changed.set()
        self._changed = asyncio.Event()
        try:
            yield loan
        finally:
            loan.close()
            if self._loans.get(handle) is loan:
                del self._loans[handle]

    async def get(self, handle: str) -> Loan:
        """What is lent under a handle; waits WAIT_S for it. Raises Unavailable (CLIENT_GONE)."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := self._loans.get(handle)) is None:
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable("the client does not lend it any more", reason="CLIENT_GONE") from None
        return found


class ClientCache:
    """A cache of a client for one build; see shoald.registry.ports.Source. References and credentials mean nothing."""

    def __init__(self, lenders: CacheLenders, lent: LentCache) -> None:
        self._lenders = lenders
        self._handle = lent.handle
        self._root = Descriptor(media_type=lent.media_type, digest=lent.digest, size=lent.size)
        self._gone: Unavailable | None = None

    async def resolve(self, ref: Reference, *, credentials: Credentials | None = None) -> Resolved:
        """See Source.resolve."""
        return Resolved(self._root, await self.manifest(ref, self._root))

    async def manifest(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bytes:
        """See Source.manifest."""
        return await read_blob(self, ref, descriptor, limit=MAX_MANIFEST_BYTES)

    def blob(
        self, ref: Reference, descriptor: Descriptor, offset: int = 0, *, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Source.blob."""
        return contextlib.aclosing(self._chunks(descriptor, offset))

    async def _chunks(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
        at = offset
        while at < descriptor.size:
            with contextlib.suppress(_Lost):
                async with contextlib.aclosing((await self._loan()).blob(descriptor.digest, at)) as pieces:
                    async for piece in pieces:
                        at += len(piece)
                        if at > descriptor.size:
                            break
                        yield piece
                if at != descriptor.size:
                    raise DataLoss(
                        f"the client has not the {descriptor.size} bytes of {descriptor.digest}", reason="SIZE_MISMATCH"
                    )

    async def _loan(self) -> Loan:
        """Who waited in vain once does not wait for each step."""
        if self._gone is not None:
            raise self._gone
        try:
            return await self._lenders.get(self._handle)
        except Unavailable as error:
            self._gone = error
            raise
