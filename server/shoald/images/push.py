"""Pushing: what a registry lacks of an image or an index, then the manifests as they are, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from shoal.digest import Digest
from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.images.flights import all_of
from shoald.images.indexing import Indexer
from shoald.images.progress import Meter
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image, IndexRecord, Progress, ProgressPhase
from shoald.oci.manifest import Descriptor, Index
from shoald.oci.parse import parse_manifest
from shoald.registry.ports import Credentials, Registry

Emit = Callable[[Progress], None]


class Pusher:
    """Pushes images of this host."""

    def __init__(
        self, md: Metadata, content: ContentStore, registry: Registry, indexer: Indexer, parallel: int
    ) -> None:
        self._md = md
        self._content = content
        self._registry = registry
        self._indexer = indexer
        self._gate = asyncio.Semaphore(parallel)

    async def push(self, ref: Reference, credentials: Credentials | None, emit: Emit) -> tuple[str, int]:
        """See ImageStore.push."""
        if ref.digest is not None:
            raise InvalidArgument("can't push a digest reference: give a tag", reason="INVALID_REFERENCE")
        image = self._md.images.find(str(ref))
        record = self._md.indexes.named(str(ref))
        with self._md.leases.lease("push") as lease:
            for digest in self._indexer.blobs(record) if record else self._md.images.blob_digests(image.id):
                self._md.leases.hold(lease, HoldKind.BLOB, digest)
            if record is not None:
                digest, size = await self._index(ref, record, credentials, emit)
            else:
                body = self._content.read(Digest.parse(image.manifest_digest))
                size = len(body)
                manifest = parse_manifest(body, image.manifest_media_type)
                if isinstance(manifest, Index):
                    raise InvalidArgument(f"{image.manifest_digest} is an index", reason="BAD_MANIFEST")
                await self._parts(image, manifest.parts, ref, credentials, emit)
                digest = await self._registry.push_manifest(
                    ref, body, image.manifest_media_type, credentials=credentials
                )
        repo_digest = str(ref.without_tag().with_digest(Digest.parse(digest)))
        if self._md.images.get(image.id) is not None:
            self._md.images.add_repo_digest(repo_digest, image.id)
        return digest, size

    async def _index(
        self, ref: Reference, record: IndexRecord, credentials: Credentials | None, emit: Emit
    ) -> tuple[str, int]:
        """All images and attestations, each manifest by its digest, then the index under the tag."""
        body, index = self._indexer.document(record)
        for entry in {entry.digest: entry for entry in index.manifests}.values():
            parts = self._indexer.manifest(entry).parts
            await self._parts(self._indexer.image_of(entry), parts, ref, credentials, emit)
            manifest = self._content.read(Digest.parse(entry.digest))
            await self._registry.push_manifest(ref, manifest, entry.media_type, entry.digest, credentials=credentials)
        return await self._registry.push_manifest(ref, body, record.media_type, credentials=credentials), len(body)

    async def _parts(
        self,
        image: Image | None,
        parts: Sequence[Descriptor],
        ref: Reference,
        credentials: Credentials | None,
        emit: Emit,
    ) -> None:
        """What a manifest names, of an image or of an attestation; each once: images repeat layers."""
        once = {part.digest: part for part in parts}
        await all_of(self._part(image, ref, part, credentials, emit) for part in once.values())

    async def _part(
        self, image: Image | None, ref: Reference, part: Descriptor, credentials: Credentials | None, emit: Emit
    ) -> None:
        meter = Meter(part.digest, part.size, emit)
        meter.phase(ProgressPhase.WAITING)
        async with self._gate:
            if self._content.size(Digest.parse(part.digest)) is None:
                if await self._registry.blob_exists(ref, part, credentials=credentials):
                    meter.finished(ProgressPhase.EXISTS)
                    return
                await self._fetch_back(image, ref, part, credentials)
            meter.phase(ProgressPhase.UPLOADING)
            sent = await self._registry.push_blob(
                ref,
                part,
                lambda: self._open(part),
                self._elsewhere(image, ref),
                credentials=credentials,
                progress=meter.advance,
            )
            meter.finished(ProgressPhase.DONE if sent else ProgressPhase.EXISTS)

    def _open(self, part: Descriptor) -> AsyncIterator[bytes]:
        return self._content.stream(Digest.parse(part.digest))

    def _elsewhere(self, image: Image | None, ref: Reference) -> str | None:
        """Another repository of the same registry that this image came from or went to."""
        for name in image.repo_digests if image else ():
            other = Reference.parse(name)
            if other.domain == ref.domain and other.path != ref.path:
                return other.path
        return None

    async def bring(self, image: Image, part: Descriptor) -> None:
        """A blob that is not here, from where its image came. Raises FailedPrecondition (LAYER_BLOB_MISSING)."""
        await self._fetch_back(image, None, part, None)

    async def _fetch_back(
        self, image: Image | None, ref: Reference | None, part: Descriptor, credentials: Credentials | None
    ) -> None:
        """A layer that was here unpacked when the image was pulled, so that its blob never came."""
        digest = Digest.parse(part.digest)
        failed: ShoalError | None = None
        for name in image.repo_digests if image else ():
            origin = Reference.parse(name)
            allowed = credentials if ref is not None and origin.domain == ref.domain else None
            try:
                async with self._content.ingest(digest, part.size) as ingest:
                    if ingest.offset < part.size:
                        async with self._registry.blob(origin, part, ingest.offset, credentials=allowed) as chunks:
                            async for chunk in chunks:
                                ingest.write(chunk)
                    await ingest.commit()
                return
            except ShoalError as error:
                failed = error
        raise FailedPrecondition(
            f"the compressed form of layer {digest.short} is not on this host, and nowhere to be had",
            reason="LAYER_BLOB_MISSING",
            hint="pull the image again, then try once more",
            metadata={"digest": part.digest},
        ) from failed
