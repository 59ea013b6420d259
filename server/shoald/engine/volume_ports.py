"""Use cases of volumes and of clients' files, as the API calls them. See shoald.engine.ports."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from shoald.model.buildcache import CachePrune, CachePruned, CacheRecord
from shoald.model.file import TreeEntry
from shoald.model.snapshot import Volume


class BuildCacheUses(Protocol):
    """What can be done with what the builder keeps."""

    async def records(self) -> Sequence[CacheRecord]:
        """The least recently used first."""

    async def prune(self, wanted: CachePrune) -> CachePruned:
        """Delete what no build at work uses."""


class VolumeFilter(Struct, frozen=True):
    """See shoal.v1.VolumeServiceListRequest."""

    labels: tuple[tuple[str, str], ...] = ()
    name: str = ""
    dangling: bool = False


class VolumeDetails(Struct, frozen=True):
    """For inspect."""

    volume: Volume
    mountpoint: str
    containers: tuple[str, ...]
    size_bytes: int


class VolumeUses(Protocol):
    """What can be done with volumes."""

    def list(self, wanted: VolumeFilter) -> Sequence[Volume]:
        """By name."""

    def path(self, name: str) -> str:
        """Directory on the host. Raises NotFound."""

    async def create(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> Volume:
        """Idempotent. An empty name: a random one."""

    async def inspect(self, name: str) -> VolumeDetails:
        """All that is known."""

    async def prune(self, everything: bool, labels: tuple[tuple[str, str], ...]) -> tuple[Sequence[str], int]:
        """(names of removed volumes, freed bytes)."""

    async def remove(self, name: str) -> None:
        """Delete."""

    def export(self, name: str) -> AsyncIterator[bytes]:
        """A tar."""

    async def load(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Unpack a tar; the volume is made if it does not exist."""


class FileUses(Protocol):
    """What can be done with files of clients."""

    def missing(self, digests: Sequence[str]) -> Sequence[str]:
        """Blobs that are not here; the others are kept for an hour."""

    async def put(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store one blob."""

    async def put_all(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Store several small blobs."""

    async def prepare_context(self, digest: str) -> Sequence[str]:
        """What must be sent yet for a build's context whose manifest is here."""

    async def assemble(self, entries: Sequence[TreeEntry]) -> str:
        """Make a tree; its digest."""

    async def replace(self, name: str, target: str, digest: str) -> None:
        """Give a container another tree."""

    async def put_secret(self, value: bytes, mode: int, container: str, target: str) -> str:
        """Hold a value (its handle), or give it to a container that exists ("")."""
