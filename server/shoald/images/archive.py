"""Images as an archive: an OCI image layout in a tar (image-spec `image-layout.md`), or Docker's variant of it.

What dockerd, podman and skopeo load. Blobs go as they are, compressed; each once.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.model.image import Image
from shoald.oci.manifest import Descriptor, Index, Manifest
from shoald.oci.mediatypes import OCI_INDEX, is_foreign
from shoald.oci.parse import parse_manifest

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


class Exported(Struct, frozen=True):
    """An image that goes into an archive, and the names that it has there."""

    image: Image
    names: tuple[str, ...]


async def archive(
    content: ContentStore,
    images: Sequence[Exported],
    bring: Callable[[Image, Descriptor], Awaitable[None]],
    *,
    docker: bool,
) -> AsyncGenerator[bytes, None]:
    """The archive in pieces. `bring` fetches a blob that is not here. Raises what it raises, DataLoss."""
    manifests = [(each, _manifest(content, each.image)) for each in images]
    index, listed = _index(content, manifests), _docker(manifests)
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield _file("index.json", json.dumps(index, separators=(",", ":")).encode())
    if docker:
        yield _file("manifest.json", json.dumps(listed, separators=(",", ":")).encode())
    seen: set[str] = set()
    for each, manifest in manifests:
        own = Descriptor(media_type=each.image.manifest_media_type, digest=each.image.manifest_digest, size=-1)
        for part in (own, *manifest.parts):
            if part.digest in seen or is_foreign(part.media_type):
                continue
            seen.add(part.digest)
            async for chunk in _blob(content, each.image, part, bring):
                yield chunk
    yield bytes(2 * tarfile.BLOCKSIZE)


def _manifest(content: ContentStore, image: Image) -> Manifest:
    found = parse_manifest(content.read(Digest.parse(image.manifest_digest)), image.manifest_media_type)
    if isinstance(found, Index):
        raise InvalidArgument(f"{image.manifest_digest} is an index", reason="BAD_MANIFEST")
    return found


async def _blob(
    content: ContentStore, image: Image, part: Descriptor, bring: Callable[[Image, Descriptor], Awaitable[None]]
) -> AsyncGenerator[bytes, None]:
    digest = Digest.parse(part.digest)
    size = content.size(digest)
    if size is None:
        await bring(image, part)
        size = content.size(digest) or 0
    yield _header(f"blobs/{digest.algorithm}/{digest.hex}", size)
    async for chunk in content.stream(digest):
        yield chunk
    yield bytes(-size % tarfile.BLOCKSIZE)


def _index(content: ContentStore, manifests: Sequence[tuple[Exported, Manifest]]) -> dict[str, Any]:
    entries = []
    for each, _ in manifests:
        image = each.image
        platform = {"architecture": image.config.architecture, "os": image.config.os, "variant": image.config.variant}
        entry = {
            "mediaType": image.manifest_media_type,
            "digest": image.manifest_digest,
            "size": content.size(Digest.parse(image.manifest_digest)),
            "platform": {key: value for key, value in platform.items() if value},
        }
        for name in each.names:
            reference = Reference.parse(name)
            entries.append({**entry, "annotations": {CONTAINERD_NAME: name, REF_NAME: reference.tag or ""}})
        if not each.names:
            entries.append(entry)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


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
