"""Loading: the images and indexes of an archive, as if they were pulled from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shoal.digest import Digest
from shoal.errors import DataLoss
from shoald.content.ports import ContentStore
from shoald.host.blocking import in_thread
from shoald.images.indexing import Indexer, subject_of
from shoald.images.layerfetch import LayerFetcher
from shoald.images.loading import Archived, ArchiveSource, loaded
from shoald.images.pull import Puller
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image, Loaded, Progress
from shoald.oci.manifest import Descriptor, Index
from shoald.oci.parse import parse_manifest
from shoald.oci.select import platform_of
from shoald.registry.ports import Source
from shoald.snapshots.ports import Snapshotter

Emit = Callable[[Progress], None]
_MAX_ATTESTATION_BYTES = 256 << 20


class Loader:
    """Loads archives; safe for several at once."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        fetcher: Callable[[Source], LayerFetcher],
        indexer: Indexer,
    ) -> None:
        self._md = md
        self._content = content
        self._snapshots = snapshots
        self._fetcher = fetcher
        self._indexer = indexer

    async def load(self, directory: Path, emit: Emit) -> list[Loaded]:
        """See ImageStore.load."""
        source = ArchiveSource(directory)
        puller = Puller(self._md, self._content, self._snapshots, source, self._fetcher(source), nameless=True)
        found = []
        for each in await in_thread(source.images):
            if each.index is not None:
                image = await self._index(source, puller, each, each.index, emit)
            else:
                image = await puller.pull(each.reference, None, None, emit)
                for name in each.names:
                    self._md.images.tag(name, image.id)
            found.append(Loaded(self._md.images.get(image.id) or image, each.names))
        return found

    async def _index(
        self, source: ArchiveSource, puller: Puller, archived: Archived, index: Index, emit: Emit
    ) -> Image:
        """All images of an index, and it itself with its attestations; what it means on this host."""
        with self._md.leases.lease("load") as lease:
            images = []
            for entry in {entry.digest: entry for entry in index.manifests}.values():
                if subject_of(entry) is not None:
                    await self._attestation(source, entry, lease)
                    continue
                images.append(await puller.pull(loaded(entry.digest), platform_of(entry), None, emit))
                # The row of an image that is here may keep another manifest.
                for digest in (entry.digest, *(part.digest for part in self._indexer.manifest(entry).parts)):
                    self._md.leases.hold(lease, HoldKind.BLOB, digest)
            if not images:
                raise DataLoss(f"the index {archived.reference} of the archive has no image", reason="BAD_MANIFEST")
            resolved = await source.resolve(archived.reference)
            record = await self._indexer.keep(resolved.body, resolved.descriptor.media_type, images, archived.names)
        return next(image for image in images if image.id == record.image_id)

    async def _attestation(self, source: ArchiveSource, entry: Descriptor, lease: str) -> None:
        body = await source.manifest(loaded(entry.digest), entry)
        manifest = parse_manifest(body, entry.media_type)
        if isinstance(manifest, Index):
            raise DataLoss(f"the attestation {entry.digest} is an index", reason="BAD_MANIFEST")
        for part in {part.digest: part for part in manifest.parts}.values():
            if part.size > _MAX_ATTESTATION_BYTES:
                raise DataLoss(f"the attestation {entry.digest} has {part.size} bytes", reason="SIZE_MISMATCH")
            self._md.leases.hold(lease, HoldKind.BLOB, part.digest)
            if self._content.size(Digest.parse(part.digest)) is not None:
                continue
            async with self._content.ingest(Digest.parse(part.digest), part.size) as ingest:
                async with source.blob(loaded(entry.digest), part, ingest.offset) as chunks:
                    async for chunk in chunks:
                        await ingest.append(chunk)
                await ingest.commit()
        self._md.leases.hold(lease, HoldKind.BLOB, entry.digest)
        await self._content.put(body, Digest.parse(entry.digest))
