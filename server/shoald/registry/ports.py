"""What the daemon wants of a registry. `RegistryClient` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from shoal.reference import Reference
from shoald.model.image import RegistryCredentials
from shoald.oci.manifest import Descriptor

Credentials = RegistryCredentials
"""What the caller gave for this pull or push; None means: what the daemon's configuration has, else anonymous."""

OpenBody = Callable[[], AsyncIterator[bytes]]
"""Opens the content again from its first byte; called once more for each retry."""

Progress = Callable[[int], None]
"""Told the bytes sent so far; goes back when a retry starts again."""


class Resolved(Struct, frozen=True):
    """What a reference stands for at this moment: a manifest or an index, by its verified bytes."""

    descriptor: Descriptor
    body: bytes


class Source(Protocol):
    """Reads images of where references lead. Safe for concurrent use.

    Every method may raise Unavailable (REGISTRY_UNREACHABLE, REGISTRY_TLS, REGISTRY_ERROR), Unauthenticated
    (REGISTRY_AUTH), PermissionDenied (REGISTRY_DENIED) and ResourceExhausted (REGISTRY_RATE_LIMIT).
    """

    async def resolve(self, ref: Reference, *, credentials: Credentials | None = None) -> Resolved:
        """Fetch the manifest or index that `ref` names: by its digest if it has one, else by its tag or `latest`.

        Raises NotFound (IMAGE_NOT_FOUND), DataLoss (DIGEST_MISMATCH, SIZE_MISMATCH), InvalidArgument (BAD_MANIFEST),
        Unimplemented (SCHEMA1).
        """

    async def manifest(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bytes:
        """The manifest that `descriptor` names, its digest, size and type verified. Raises as `resolve` does."""

    def blob(
        self, ref: Reference, descriptor: Descriptor, offset: int = 0, *, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream a blob from byte `offset` to its end, in chunks of at least 256 KiB but for the last.

        Lost connections are resumed. Gives exactly `descriptor.size - offset` bytes or raises; never more. The DIGEST
        IS NOT CHECKED here: whoever stores the bytes hashes them (see `read_blob` for small ones).
        Raises NotFound (BLOB_NOT_FOUND), DataLoss (SIZE_MISMATCH), FailedPrecondition (FOREIGN_LAYER).
        """


class Registry(Source, Protocol):
    """Reads and writes images of every registry that references name. Raises what a Source does, too."""

    async def blob_exists(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bool:
        """Whether the repository has this blob already."""

    async def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_body: OpenBody,
        mount_from: str | None = None,
        *,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Upload a blob unless the repository has it; False when nothing had to be sent (present, or mounted).

        `mount_from` is another repository's path on the same registry that may have it. Idempotent.
        Raises DataLoss (SIZE_MISMATCH) when `open_body` gives another number of bytes than `descriptor.size`, and
        DataLoss (DIGEST_MISMATCH) when the registry finds another digest.
        """

    async def push_manifest(
        self,
        ref: Reference,
        body: bytes,
        media_type: str,
        tag_or_digest: str | None = None,
        *,
        credentials: Credentials | None = None,
    ) -> str:
        """Put a manifest or index under `tag_or_digest` (default: the reference's own) and return its digest.

        Its parts must be there before. Idempotent. Raises FailedPrecondition (MANIFEST_REFUSED).
        """

    async def close(self) -> None:
        """Close all connections; the registry is of no use afterwards."""
