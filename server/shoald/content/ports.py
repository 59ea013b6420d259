"""Protocol of a content store. Contract suite: tests/contract/test_content.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from shoal.digest import Digest


class Ingest(Protocol):
    """A blob being written. Leaving without commit() keeps what was written for a resume, unless discarded."""

    @property
    def offset(self) -> int:
        """Bytes written so far (more than 0 after a resume: the caller continues from there)."""

    def write(self, chunk: bytes) -> None:
        """Append and hash. Raises DataLoss (SIZE_MISMATCH) past the expected size, ResourceExhausted (DISK_FULL)."""

    async def append(self, chunk: bytes) -> None:
        """`write` without holding up the event loop: the way for large blobs."""

    async def commit(self) -> Path:
        """Verify size and digest, fsync, rename, fsync the directory. DataLoss (DIGEST_MISMATCH) discards."""

    async def discard(self) -> None:
        """Delete what was written."""


class ContentStore(Protocol):
    """Blobs by digest. A blob exists exactly when it is complete and verified."""

    def path(self, digest: Digest) -> Path | None:
        """Path of the read-only file, or None."""

    def size(self, digest: Digest) -> int | None:
        """Bytes, or None."""

    def read(self, digest: Digest, limit: int = 64 << 20) -> bytes:
        """The whole small blob. Raises NotFound (BLOB_NOT_FOUND), ResourceExhausted past `limit`."""

    async def put(self, body: bytes, digest: Digest | None = None) -> Digest:
        """Store a small blob; verifies `digest` when given. Idempotent."""

    def ingest(self, digest: Digest, size: int) -> AbstractAsyncContextManager[Ingest]:
        """Write the blob `digest` of `size` bytes; resumes an earlier try.

        One writer a digest at a time: others wait."""

    def stream(self, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob in chunks of 1 MiB."""

    async def delete(self, digest: Digest, *, unless: Callable[[], bool] | None = None) -> bool:
        """Delete blob and partial; False when there was none. Waits for a writer of the same digest.

        `unless` is asked at the last moment, and nothing is awaited between its answer and the disappearance: who takes
        a lease on a digest and then looks whether the blob exists never loses it to the collector.
        """

    def digests(self) -> list[Digest]:
        """All blobs there are (for garbage collection)."""

    def partials(self) -> list[Digest]:
        """Digests of which a part is left for a resume, and nobody writes now."""
