"""Image indexes of this host: one image for several platforms, or with attestations (image-spec `image-index.md`).

Attestations are manifests of an index beside the image that they are about, as BuildKit stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument, ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.attest.manifest import ATTESTATION, REFERENCE_DIGEST, REFERENCE_TYPE
from shoald.content.ports import ContentStore
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image, IndexRecord
from shoald.oci.config import ImageConfig
from shoald.oci.manifest import Descriptor, Index, Manifest, PlatformSpec, encode
from shoald.oci.mediatypes import OCI_INDEX
from shoald.oci.parse import parse_manifest

_UNKNOWN = Platform("unknown", "unknown")


class Part(Struct, frozen=True):
    """An image, and the index entries of the attestations about it, whose blobs are here."""

    image: Image
    attestations: tuple[Descriptor, ...] = ()
    entry: Descriptor | None = None
    """What an index has of the image; its manifest may be another one than `image` has by now."""


class Indexer:
    """Makes and reads indexes."""

    def __init__(self, md: Metadata, content: ContentStore, platform: Platform) -> None:
        """`platform` is this host's: which image of an index its name means here."""
        self._md = md
        self._content = content
        self._platform = platform

    def find(self, name: str) -> IndexRecord | None:
        """The index that a tag or a digest means; None when it means an image, or nothing."""
        if (found := self._md.indexes.get(name)) is not None:
            return found
        return self._md.indexes.named(canonical(name))

    def document(self, record: IndexRecord) -> tuple[bytes, Index]:
        """The index itself. Raises NotFound (BLOB_NOT_FOUND), DataLoss (BAD_MANIFEST)."""
        body = self._content.read(Digest.parse(record.digest))
        index = parse_manifest(body, record.media_type)
        if not isinstance(index, Index):
            raise DataLoss(f"{record.digest} is no index", reason="BAD_MANIFEST")
        return body, index

    def parts(self, name: str) -> list[Part]:
        """What a name stands for: the images of an index with their attestations, or one image.

        Raises NotFound (IMAGE_NOT_FOUND), InvalidArgument (AMBIGUOUS_ID), and as `document` and `manifest`.
        """
        record = self.find(name)
        if record is None:
            return [Part(self._md.images.find(name))]
        entries = {entry.digest: entry for entry in self.document(record)[1].manifests}.values()
        about: dict[str, list[Descriptor]] = {}
        for entry in entries:
            if (subject := subject_of(entry)) is not None:
                about.setdefault(subject, []).append(entry)
        images = {entry.digest: self.image_of(entry) for entry in entries}
        return [
            Part(image, tuple(about.get(entry.digest, ())), entry)
            for entry in entries
            if (image := images[entry.digest]) is not None
        ]

    def image_of(self, entry: Descriptor) -> Image | None:
        """The image that an entry of an index is; None for an attestation. Raises as `manifest`."""
        if subject_of(entry) is not None:
            return None
        return self._md.images.get(self.manifest(entry).config.digest)

    def blobs(self, record: IndexRecord) -> set[str]:
        """Digests of all that an index consists of."""
        own = set(self._md.indexes.blob_digests(record.digest))
        return own.union(*(self._md.images.blob_digests(image) for image in record.images))

    def for_platform(self, name: str, image: Image, platform: Platform) -> Image:
        """The image of the index `name` that suits a platform best; `image` where `name` means no index, or
        none suits."""
        record = self.find(name)
        if record is None:
            return image
        found = [each for part in record.images if (each := self._md.images.get(part)) is not None]
        best = platform.best(map(_claimed, found))
        return image if best is None else found[best]

    async def create(self, parts: Sequence[Part], names: Iterable[str] = ()) -> IndexRecord:
        """Make an index of images of this host, in their order, then their attestations; `names` (canonical tags) mean
        it from now on.

        Raises InvalidArgument (DUPLICATE_PLATFORM, EMPTY_INDEX), NotFound (IMAGE_NOT_FOUND) for an image that is gone.
        """
        if not parts:
            raise InvalidArgument("an index needs an image", reason="EMPTY_INDEX")
        known: dict[str, str] = {}
        for part in parts:
            platform = str(part.image.config.platform)
            if known.setdefault(platform, part.image.id) != part.image.id:
                raise InvalidArgument(
                    f"two of the images are for {platform}: {known[platform]} and {part.image.id}",
                    reason="DUPLICATE_PLATFORM",
                )
        images = [part.entry or self._entry(part.image) for part in parts]
        entries = [*images, *(each for part in parts for each in part.attestations)]
        body = encode(Index.of(list({entry.digest: entry for entry in entries}.values())))
        return await self.keep(body, OCI_INDEX, [part.image for part in parts], names)

    async def keep(self, body: bytes, media_type: str, images: Sequence[Image], names: Iterable[str]) -> IndexRecord:
        """Let an index, byte for byte, be known here; all that it names is here. Raises NotFound (IMAGE_NOT_FOUND)."""
        index = parse_manifest(body, media_type)
        assert isinstance(index, Index)
        digest = str(Digest.of(body))
        needed = [digest]
        for entry in {entry.digest: entry for entry in index.manifests}.values():
            # Of images, too: one that comes once more in another wrapping has another manifest from then on.
            needed += [entry.digest, *(part.digest for part in self.manifest(entry).parts)]
        best = self._platform.best(map(_claimed, images)) or 0
        record = IndexRecord(
            digest, media_type, len(body), images[best].id, tuple(dict.fromkeys(image.id for image in images))
        )
        with self._md.leases.lease("index") as lease:
            for each in needed:
                self._md.leases.hold(lease, HoldKind.BLOB, each)
            await self._content.put(body)
            with self._md.transaction():
                self._md.blobs.add(digest, len(body), media_type)
                self._md.indexes.put(record, needed, list(names))
        return record

    def manifest(self, entry: Descriptor) -> Manifest:
        """A manifest of an index that is here. Raises NotFound (BLOB_NOT_FOUND), InvalidArgument (BAD_MANIFEST)."""
        found = parse_manifest(self._content.read(Digest.parse(entry.digest)), entry.media_type)
        if isinstance(found, Index):
            raise InvalidArgument(f"{entry.digest} is an index", reason="BAD_MANIFEST")
        return found

    def _entry(self, image: Image) -> Descriptor:
        size = self._content.size(Digest.parse(image.manifest_digest))
        if size is None:
            raise DataLoss(f"the manifest of {image.id} is gone", reason="BLOB_NOT_FOUND")
        return Descriptor(
            media_type=image.manifest_media_type,
            digest=image.manifest_digest,
            size=size,
            platform=platform_spec(image.config),
        )


def platform_spec(config: ImageConfig) -> PlatformSpec:
    """The platform of an image as an index has it."""
    return PlatformSpec(
        architecture=config.architecture,
        os=config.os,
        os_version=config.os_version,
        os_features=config.os_features,
        variant=config.variant,
    )


def _claimed(image: Image) -> Platform:
    """What an image says that it is for; what old tools left empty suits no host."""
    try:
        return image.config.platform
    except InvalidArgument:
        return _UNKNOWN


def subject_of(entry: Descriptor) -> str | None:
    """The digest of the manifest that an entry is an attestation about; None when it is none."""
    annotations = entry.annotations or {}
    if annotations.get(REFERENCE_TYPE) != ATTESTATION:
        return None
    return annotations.get(REFERENCE_DIGEST)


def canonical(name: str) -> str:
    """The canonical form of a reference; "" when it is none."""
    try:
        return str(Reference.parse(name).docker_ref())
    except ShoalError:
        return ""
