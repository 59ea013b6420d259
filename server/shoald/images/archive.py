"""Images as an archive: an OCI image layout in a tar (image-spec `image-layout.md`), or Docker's variant of it.

What dockerd, podman and skopeo load. Blobs go as they are, compressed; each once.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.images.indexing import Indexer, platform_spec
from shoald.model.image import Image, IndexRecord
from shoald.oci.manifest import Descriptor, Index, Manifest
from shoald.oci.mediatypes import OCI_INDEX, is_foreign
from shoald.oci.parse import parse_manifest

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


class Exported(Struct, frozen=True):
    """An image that goes into an archive, and the names that it has there; with `index`, what these names mean."""

    image: Image
    names: tuple[str, ...]
    index: IndexRecord | None = None


Bring = Callable[[Image, Descriptor], Awaitable[None]]


async def archive(
    content: ContentStore, indexer: Indexer, wanted: Sequence[Exported], bring: Bring, *, docker: bool
) -> AsyncGenerator[bytes, None]:
    """The archive in pieces. `bring` fetches a blob that is not here. Raises what it raises, DataLoss."""
    index = [entry for each in wanted for entry in _entries(content, each)]
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index}
    yield _file("index.json", json.dumps(document, separators=(",", ":")).encode())
    if docker:
        listed = _docker([(each, _manifest(content, each.image)) for each in wanted])
        yield _file("manifest.json", json.dumps(listed, separators=(",", ":")).encode())
    seen: set[str] = set()
    for each in wanted:
        for image, part in _blobs(content, indexer, each):
            if part.digest in seen or is_foreign(part.media_type):
                continue
            seen.add(part.digest)
            async for chunk in _blob(content, image, part, bring):
                yield chunk
    yield bytes(2 * tarfile.BLOCKSIZE)


def _blobs(content: ContentStore, indexer: Indexer, each: Exported) -> Iterator[tuple[Image, Descriptor]]:
    """All that is stored of it, with the image that it is of."""
    record = each.index
    if record is None:
        yield from _blobs_of(content, each.image)
        return
    yield each.image, Descriptor(media_type=record.media_type, digest=record.digest, size=record.size_bytes)
    for entry in indexer.document(record)[1].manifests:
        image = indexer.image_of(entry) or each.image
        yield image, entry
        yield from ((image, part) for part in indexer.manifest(entry).parts)


def _blobs_of(content: ContentStore, image: Image) -> Iterator[tuple[Image, Descriptor]]:
    yield image, Descriptor(media_type=image.manifest_media_type, digest=image.manifest_digest, size=-1)
    yield from ((image, part) for part in _manifest(content, image).parts)


def _manifest(content: ContentStore, image: Image) -> Manifest:
    found = parse_manifest(content.read(Digest.parse(image.manifest_digest)), image.manifest_media_type)
    if isinstance(found, Index):
        raise InvalidArgument(f"{image.manifest_digest} is an index", reason="BAD_MANIFEST")
    return found


async def _blob(content: ContentStore, image: Image, part: Descriptor, bring: Bring) -> AsyncGenerator[bytes, None]:
    digest = Digest.parse(part.digest)
    size = content.size(digest)
    if size is None:
        await bring(image, part)
        size = content.size(digest) or 0
    yield _header(f"blobs/{digest.algorithm}/{digest.hex}", size)
    async for chunk in content.stream(digest):
        yield chunk
    yield bytes(-size % tarfile.BLOCKSIZE)


def _entries(content: ContentStore, each: Exported) -> list[dict[str, Any]]:
    """What index.json has of it: an entry for each name."""
    image, record = each.image, each.index
    if record is not None:
        entry: dict[str, Any] = {"mediaType": record.media_type, "digest": record.digest, "size": record.size_bytes}
    else:
        entry = {
            "mediaType": image.manifest_media_type,
            "digest": image.manifest_digest,
            "size": content.size(Digest.parse(image.manifest_digest)),
            "platform": msgspec.to_builtins(platform_spec(image.config)),
        }
    names = [{CONTAINERD_NAME: name, REF_NAME: Reference.parse(name).tag or ""} for name in each.names]
    return [{**entry, "annotations": annotations} for annotations in names] or [entry]


def _docker(manifests: Sequence[tuple[Exported, Manifest]]) -> list[dict[str, Any]]:
    return [
        {
            "Config": _place(manifest.config.digest),
            "RepoTags": [Reference.parse(name).familiar() for name in each.names] or None,
            "Layers": [_place(layer.digest) for layer in manifest.layers],
        }
        for each, manifest in manifests
    ]


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _file(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)
