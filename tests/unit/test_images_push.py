"""Pushing a layer whose compressed form never came: where it is fetched from, and with which credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shoal.digest import Digest
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.images.indexing import Indexer
from shoald.images.push import Pusher
from shoald.metadata import Metadata
from shoald.model.image import RegistryCredentials
from shoald.oci.manifest import Descriptor, Manifest, encode
from shoald.oci.mediatypes import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.support import records

LOGIN = RegistryCredentials("ada", "secret")
LAYER = Descriptor.of(b"layer", OCI_LAYER)
CONFIG = Descriptor.of(b"config", OCI_CONFIG)
MANIFEST = encode(Manifest.of(CONFIG, [LAYER], OCI_MANIFEST))


class FakeContent:
    """Has all but the layer, which no origin has either."""

    def read(self, digest: Digest) -> bytes:
        return MANIFEST

    def size(self, digest: Digest) -> int | None:
        return None if str(digest) == LAYER.digest else 6

    @asynccontextmanager
    async def ingest(self, digest: Digest, size: int) -> AsyncIterator[Any]:
        yield FakeIngest()


class FakeIngest:
    offset = 0

    def write(self, chunk: bytes) -> None:
        pass

    async def commit(self) -> None:
        pass


class FakeRegistry:
    """Lacks all that is pushed."""

    def __init__(self) -> None:
        self.fetched: list[tuple[str, RegistryCredentials | None]] = []

    @asynccontextmanager
    async def blob(
        self, ref: Reference, part: Descriptor, offset: int, *, credentials: RegistryCredentials | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.fetched.append((ref.name, credentials))
        yield _once(b"layer")

    async def blob_exists(self, *_: object, **__: object) -> bool:
        return False

    async def push_blob(self, *_: object, **__: object) -> bool:
        return True

    async def push_manifest(self, *_: object, **__: object) -> str:
        return str(Digest.of(MANIFEST))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _fetched(tmp_path: Path, origin: str, target: str) -> list[tuple[str, RegistryCredentials | None]]:
    digest = str(Digest.of(MANIFEST))
    registry = FakeRegistry()
    with Metadata.open(tmp_path / "meta.db") as md:
        image = records.image(manifest_digest=digest, manifest_media_type=OCI_MANIFEST)
        md.images.put(image, [])
        md.images.tag(target, image.id)
        md.images.add_repo_digest(f"{origin}@{digest}", image.id)
        indexer = Indexer(md, FakeContent(), Platform("linux", "amd64"))  # type: ignore[arg-type]
        pusher = Pusher(md, FakeContent(), registry, indexer, 1)  # type: ignore[arg-type]
        await pusher.push(Reference.parse(target), LOGIN, lambda _: None)
    return registry.fetched


async def test_the_same_registry_gets_the_credentials(tmp_path: Path) -> None:
    assert await _fetched(tmp_path, "r.test/private", "r.test/copy:1") == [("r.test/private", LOGIN)]


async def test_another_registry_does_not(tmp_path: Path) -> None:
    assert await _fetched(tmp_path, "other.test/a", "r.test/copy:1") == [("other.test/a", None)]
