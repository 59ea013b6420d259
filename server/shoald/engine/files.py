"""Use cases of clients' files: blobs, trees, secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from shoald.build.contexts import Contexts
from shoald.files.store import ContentTrees
from shoald.files.vault import SecretVault
from shoald.model.container import Container
from shoald.model.file import TreeEntry


class FileOwner(Protocol):
    """The part of the supervisor that this needs."""

    async def replace_files(self, container_id: str, target: str, digest: str) -> None: ...
    async def give_secret(self, container_id: str, target: str, value: bytes, mode: int) -> None: ...


class FileCases:
    """What a caller can do with files of its own."""

    def __init__(
        self,
        files: ContentTrees,
        contexts: Contexts,
        vault: SecretVault,
        containers: FileOwner,
        find: Callable[[str], Container],
    ) -> None:
        self._files = files
        self._contexts = contexts
        self._vault = vault
        self._containers = containers
        self._find = find

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Blobs that are not here; the others are kept for an hour."""
        return self._files.missing(digests)

    async def put(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store one blob. Raises DataLoss (DIGEST_MISMATCH)."""
        await self._files.put(digest, size, chunks)

    async def put_all(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Store several small blobs. Raises DataLoss (DIGEST_MISMATCH)."""
        await self._files.put_all(blobs)

    async def prepare_context(self, digest: str) -> list[str]:
        """What must be sent yet for a build's context. Raises FailedPrecondition (CONTEXT_MISSING), InvalidArgument
        (INVALID_MANIFEST)."""
        return await self._contexts.missing(digest)

    async def assemble(self, entries: Sequence[TreeEntry]) -> str:
        """Make a tree; its digest. Raises InvalidArgument (INVALID_TREE), FailedPrecondition (BLOB_MISSING)."""
        return await self._files.assemble(entries)

    async def replace(self, name: str, target: str, digest: str) -> None:
        """Give a container another tree. Raises FailedPrecondition (TREE_MISSING), InvalidArgument (NOT_CONTENT)."""
        await self._containers.replace_files(self._find(name).id, target, digest)

    async def put_secret(self, value: bytes, mode: int, container: str, target: str) -> str:
        """Hold a value for a container that is to be made (its handle), or give it to one that exists ("")."""
        if not container:
            return self._vault.hold(value, mode)
        await self._containers.give_secret(self._find(container).id, target, value, mode)
        return ""
