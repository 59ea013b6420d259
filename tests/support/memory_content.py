"""A content store in memory, for tests of what stands above it. Passes tests/contract/test_content.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from shoal.digest import Digest
from shoal.errors import DataLoss, Internal, NotFound, ResourceExhausted


class MemoryContent:
    """Implements ContentStore; `directory` is where path() writes a blob down when somebody asks."""

    def __init__(self, directory: Path) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.parts: dict[Digest, bytes] = {}
        self._directory = directory
        self._locks: defaultdict[Digest, asyncio.Lock] = defaultdict(asyncio.Lock)

    def path(self, digest: Digest) -> Path | None:
        if digest not in self.blobs:
            return None
        path = self._directory / digest.hex
        path.write_bytes(self.blobs[digest])
        return path

    def size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def read(self, digest: Digest, limit: int = 64 << 20) -> bytes:
        body = self._body(digest)
        if len(body) > limit:
            raise ResourceExhausted(f"{digest} is too large", reason="BLOB_TOO_LARGE")
        return body

    async def put(self, body: bytes, digest: Digest | None = None) -> Digest:
        actual = Digest.of(body, digest.algorithm if digest else "sha256")
        if digest is not None and digest != actual:
            raise DataLoss(f"{digest} is {actual}", reason="DIGEST_MISMATCH")
        self.blobs[actual] = body
        return actual

    @contextlib.asynccontextmanager
    async def ingest(self, digest: Digest, size: int) -> AsyncIterator[MemoryIngest]:
        async with self._locks[digest]:
            yield MemoryIngest(self, digest, size)

    async def stream(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        body = self._body(digest)[offset:]
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    async def delete(self, digest: Digest, *, unless: Callable[[], bool] | None = None) -> bool:
        async with self._locks[digest]:
            if unless is not None and unless():
                return False
            found = [self.blobs.pop(digest, None), self.parts.pop(digest, None)]
            return any(each is not None for each in found)

    def digests(self) -> list[Digest]:
        return list(self.blobs)

    def partials(self) -> list[Digest]:
        return [digest for digest in self.parts if not self._locks[digest].locked()]

    def _body(self, digest: Digest) -> bytes:
        try:
            return self.blobs[digest]
        except KeyError:
            raise NotFound(f"no such blob: {digest}", reason="BLOB_NOT_FOUND") from None


class MemoryIngest:
    """Implements Ingest."""

    def __init__(self, store: MemoryContent, digest: Digest, size: int) -> None:
        self._store, self._digest, self._size = store, digest, size
        self._open = digest not in store.blobs
        if not self._open and len(store.blobs[digest]) != size:
            raise DataLoss(f"{digest} has another size", reason="SIZE_MISMATCH")
        if self._open and len(store.parts.setdefault(digest, b"")) > size:
            store.parts[digest] = b""

    @property
    def offset(self) -> int:
        return len((self._store.parts if self._open else self._store.blobs)[self._digest])

    def write(self, chunk: bytes) -> None:
        if not self._open or self._digest not in self._store.parts:
            raise Internal("closed", reason="INGEST_CLOSED")
        if self.offset + len(chunk) > self._size:
            del self._store.parts[self._digest]
            raise DataLoss(f"{self._digest} is too long", reason="SIZE_MISMATCH")
        self._store.parts[self._digest] += chunk

    async def append(self, chunk: bytes) -> None:
        self.write(chunk)

    async def commit(self) -> Path:
        if self._open:
            if self.offset != self._size:
                raise DataLoss(f"{self._digest} is too short", reason="SIZE_MISMATCH")
            body = self._store.parts.pop(self._digest)
            await self._store.put(body, self._digest)
            self._open = False
        path = self._store.path(self._digest)
        assert path is not None
        return path

    async def discard(self) -> None:
        if self._open:
            self._store.parts.pop(self._digest, None)
