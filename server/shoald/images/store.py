"""Images of this host: pull, push, tag, remove."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from shoal.platform import Platform
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.images.archive import Exported, archive
from shoald.images.indexing import Indexer, canonical
from shoald.images.layerfetch import LayerFetcher
from shoald.images.loader import Loader
from shoald.images.pull import Puller
from shoald.images.push import Pusher
from shoald.images.removal import prune_images, remove_image, tag_image
from shoald.images.restore import LayerRestorer
from shoald.images.unpacker import UnpackLimits
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image, Loaded, Progress
from shoald.registry.ports import Credentials, Registry, Source
from shoald.snapshots.ports import Snapshotter

PARALLEL = 3
"""Layers that are fetched, or sent, at the same time: Docker's default."""

Emit = Callable[[Progress], None]


class ImageStore:
    """What the use cases need of images. Safe for many tasks of one event loop."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        registry: Registry,
        *,
        platform: Platform | None = None,
        parallel: int = PARALLEL,
        limits: UnpackLimits | None = None,
    ) -> None:
        """`platform` is what images are pulled for when the caller does not say (default: this machine's);
        `parallel` bounds the layers in transfer, of all pulls together and of all pushes together."""
        self._md = md
        self._platform = platform or Platform.host()
        self._content = content
        self._snapshots = snapshots
        self._gate = asyncio.Semaphore(parallel)
        self._limits = limits or UnpackLimits()
        fetcher = LayerFetcher(md, content, snapshots, registry, self._gate, self._limits)
        self.restorer = LayerRestorer(md, snapshots, fetcher)
        self.indexer = Indexer(md, content, self._platform)
        self._puller = Puller(md, content, snapshots, registry, fetcher)
        self._pusher = Pusher(md, content, registry, self.indexer, parallel)
        self._loader = Loader(md, content, snapshots, self._fetcher, self.indexer)

    async def pull(
        self,
        reference: str | Reference,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        progress: Emit = lambda _: None,
        *,
        tagged: bool = True,
    ) -> Image:
        """Fetch an image with all its layers, unpacked; only what is missing is downloaded.

        A reference without tag and digest means `latest`; one with a digest, or not `tagged`, gives the image no tag.
        Until all is there no image is visible; what a failed or cancelled pull has downloaded is kept for the next try
        until it is collected, unless the disk is full. Pulls at the same time share layers. Progress ids are layer
        digests.

        Raises InvalidArgument (INVALID_REFERENCE, BAD_MANIFEST, BAD_IMAGE_CONFIG, BAD_LAYER, PATH_ESCAPE,
        NOT_AN_IMAGE, TOO_MANY_LAYERS), NotFound (IMAGE_NOT_FOUND, NO_MATCHING_PLATFORM), DataLoss (DIGEST_MISMATCH,
        SIZE_MISMATCH, LAYER_MISMATCH, TRUNCATED), ResourceExhausted (DISK_FULL, ARCHIVE_TOO_LARGE) and what registries
        raise.
        """
        return await self._puller.pull(
            _parsed(reference), platform or self._platform, credentials, progress, tagged=tagged
        )

    async def load(self, directory: Path, progress: Emit = lambda _: None) -> list[Loaded]:
        """All images of an archive that was unpacked there, with the names that it gives them; an index with all of its
        images and attestations, if the archive has them all, else its image for this host.

        Raises InvalidArgument (BAD_ARCHIVE, and as pull), NotFound (BLOB_NOT_FOUND), DataLoss, ResourceExhausted.
        """
        return await self._loader.load(directory, progress)

    def _fetcher(self, source: Source) -> LayerFetcher:
        return LayerFetcher(self._md, self._content, self._snapshots, source, self._gate, self._limits)

    async def export(self, names: Sequence[str], *, docker: bool) -> AsyncGenerator[bytes, None]:
        """Images and indexes as one archive in pieces; by the names that were asked for, where these are names.

        Raises NotFound (IMAGE_NOT_FOUND), FailedPrecondition (LAYER_BLOB_MISSING), DataLoss.
        """
        found: dict[str, Exported] = {}
        for name in names:
            image, index = self._md.images.find(name), self.indexer.find(name)
            key = index.digest if index else image.id
            known = found.get(key, Exported(image, (), index))
            tag = canonical(name)
            own = (tag,) if tag in image.tags and tag not in known.names else ()
            found[key] = Exported(image, (*known.names, *own), index)
        with self._md.leases.lease("export") as lease:
            for each in found.values():
                needed = self.indexer.blobs(each.index) if each.index else self._md.images.blob_digests(each.image.id)
                for digest in needed:
                    self._md.leases.hold(lease, HoldKind.BLOB, digest)
            async with aclosing(
                archive(self._content, self.indexer, list(found.values()), self._pusher.bring, docker=docker)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def push(
        self, reference: str | Reference, credentials: Credentials | None = None, progress: Emit = lambda _: None
    ) -> tuple[str, int]:
        """Send an image, or an index with all of its images, to the registry that its name says; digest and size of the
        manifest or index.

        Only missing blobs are sent (or mounted from another repository), the manifest last. Progress ids are blob
        digests. Raises NotFound (IMAGE_NOT_FOUND), FailedPrecondition (LAYER_BLOB_MISSING), what registries raise.
        """
        return await self._pusher.push(_parsed(reference), credentials, progress)

    def tag(self, source: str, target: str) -> tuple[Image, str]:
        """Give an image, or an index, another name; see removal.tag_image."""
        return tag_image(self._md, source, target)

    async def remove_image(self, name: str, force: bool = False) -> tuple[list[str], list[str]]:
        """Take a name away, and with the last one the image; see removal.remove_image. Collects no garbage."""
        return remove_image(self._md, name, force)

    def prune(self, wanted: Callable[[Image], bool], *, unused: bool) -> tuple[list[str], list[str]]:
        """Delete images that no container uses; see removal.prune_images. Collects no garbage."""
        return prune_images(self._md, wanted, unused=unused)


def _parsed(reference: str | Reference) -> Reference:
    return (Reference.parse(reference) if isinstance(reference, str) else reference).docker_ref()
