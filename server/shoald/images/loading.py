"""Images from an archive that was unpacked: an OCI image layout, or what `docker save` of any age writes.

An archive is read as if it were a registry, so that all that comes is checked just as what is pulled. Files are opened
inside the unpacked directory only (openat2 RESOLVE_IN_ROOT): links in an archive lead nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument, NotFound, ShoalError
from shoal.reference import Reference
from shoald.host.blocking import in_thread
from shoald.host.treescan import open_inside
from shoald.images.archive import CONTAINERD_NAME, REF_NAME
from shoald.oci.manifest import Descriptor, Index, Manifest, encode
from shoald.oci.mediatypes import MANIFESTS, OCI_CONFIG, OCI_MANIFEST, Compression, layer_type
from shoald.oci.parse import MAX_MANIFEST_BYTES, parse_manifest
from shoald.registry.ports import Credentials, Resolved
from shoald.registry.verify import verify

_CHUNK = 1 << 20
_MAX_IMAGES = 1000
_MAGIC = {b"\x1f\x8b": Compression.GZIP, b"\x28\xb5\x2f\xfd": Compression.ZSTD}


class Archived(Struct, frozen=True):
    """An image of an archive: what it is pulled by, and the names that it gets."""

    reference: Reference
    names: tuple[str, ...]
    index: Index | None = None
    """It is an index of which the archive has all."""


class ArchiveSource:
    """The images of one archive; see shoald.registry.ports.Source."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._manifests: dict[str, Descriptor] = {}
        self._made: dict[str, bytes] = {}
        """Manifests of images that came without one."""
        self._places: dict[str, str] = {}

    def images(self) -> list[Archived]:
        """What is in it. Blocking. Raises InvalidArgument (BAD_ARCHIVE)."""
        index, listed = self._json("index.json"), self._json("manifest.json")
        if isinstance(index, dict) and isinstance(index.get("manifests"), list):
            return self._layout(index["manifests"])
        if isinstance(listed, list):
            return [self._docker(each) for each in listed[:_MAX_IMAGES]]
        raise _bad("it has neither an index.json nor a manifest.json")

    def _layout(self, entries: list[Any]) -> list[Archived]:
        names: dict[str, list[str]] = {}
        indexes: dict[str, Index] = {}
        for entry in entries[:_MAX_IMAGES]:
            if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
                raise _bad("index.json has an entry without a digest")
            digest = str(_digest(entry["digest"]))
            body = self._read(_place(digest), MAX_MANIFEST_BYTES)
            verify(body, digest, None, f"{digest} of the archive")
            kind = entry.get("mediaType")
            media_type = kind if isinstance(kind, str) and kind else OCI_MANIFEST
            document = parse_manifest(body, media_type)
            self._manifests[digest] = Descriptor(media_type=media_type, digest=digest, size=len(body))
            if isinstance(document, Index) and self._has_all(document):
                indexes[digest] = document
            known = names.setdefault(digest, [])
            annotations = entry.get("annotations")
            name = _name(annotations if isinstance(annotations, dict) else {})
            if name:
                known.append(name)
        return [Archived(loaded(digest), tuple(found), indexes.get(digest)) for digest, found in names.items()]

    def _has_all(self, index: Index) -> bool:
        """Whether all images of an index are in the archive; what a tool saved for one platform has the others' names
        only."""
        if not index.manifests or any(each.media_type not in MANIFESTS for each in index.manifests):
            return False
        for each in index.manifests:
            try:
                with self._open(_place(each.digest)):
                    self._manifests.setdefault(each.digest, each)
            except NotFound:
                return False
        return True

    def _docker(self, entry: Any) -> Archived:
        """An image of manifest.json: a manifest is made for it."""
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise _bad("manifest.json has an image without a Config")
        paths, tags = entry.get("Layers"), entry.get("RepoTags") or []
        if not isinstance(paths, list) or not isinstance(tags, list):
            raise _bad("manifest.json has Layers or RepoTags that are no lists")
        if not all(isinstance(each, str) for each in (*paths, *tags)):
            raise _bad("manifest.json has Layers or RepoTags that are no names")
        config = self._described(entry["Config"], OCI_CONFIG)
        layers = [self._described(path, None) for path in paths]
        body = encode(Manifest.of(config, layers))
        descriptor = Descriptor.of(body, OCI_MANIFEST)
        self._manifests[descriptor.digest] = descriptor
        self._made[descriptor.digest] = body
        references = [Reference.parse(tag).docker_ref() for tag in tags]
        # A digest in a name says what content it has: an archive can't give it to another one.
        names = tuple(str(reference) for reference in references if reference.digest is None)
        return Archived(loaded(descriptor.digest), names)

    def _described(self, path: str, media_type: str | None) -> Descriptor:
        hashed, size, head = hashlib.sha256(), 0, b""
        with self._open(path) as file:
            while chunk := os.read(file, _CHUNK):
                head = head or chunk[:4]
                hashed.update(chunk)
                size += len(chunk)
        digest = f"sha256:{hashed.hexdigest()}"
        self._places[digest] = path
        compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), Compression.NONE)
        return Descriptor(media_type=media_type or layer_type(compression), digest=digest, size=size)

    # --- files ------------------------------------------------------------------------------------------------------

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._read(name, MAX_MANIFEST_BYTES))
        except NotFound:
            return None
        except (ValueError, RecursionError) as error:
            raise _bad(f"{name} is no JSON") from error

    def _read(self, path: str, limit: int) -> bytes:
        with self._open(path) as fd, open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise _bad(f"{path[:100]} is larger than {limit} bytes")
        return data

    @contextlib.contextmanager
    def _open(self, path: str) -> Any:
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise NotFound(f"the archive has no {path[:100]!r}", reason="BLOB_NOT_FOUND") from error
        finally:
            os.close(root)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _bad(f"{path[:100]!r} is no file")
            yield fd
        finally:
            os.close(fd)

    # --- Source -----------------------------------------------------------------------------------------------------

    async def resolve(self, ref: Reference, *, credentials: Credentials | None = None) -> Resolved:
        """See Source.resolve."""
        descriptor = self._manifests[str(ref.digest)]
        body = self._made.get(descriptor.digest) or await self.manifest(ref, descriptor)
        return Resolved(descriptor, body)

    async def manifest(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bytes:
        """See Source.manifest."""
        body = await in_thread(lambda: self._read(_place(descriptor.digest), MAX_MANIFEST_BYTES))
        verify(body, descriptor.digest, descriptor.size, f"manifest {descriptor.digest} of the archive")
        return body

    def blob(
        self, ref: Reference, descriptor: Descriptor, offset: int = 0, *, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Source.blob."""
        return self._blob(descriptor, offset)

    @asynccontextmanager
    async def _blob(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        path = self._places.get(descriptor.digest) or _place(descriptor.digest)
        with self._open(path) as fd:
            size = os.fstat(fd).st_size
            if size != descriptor.size:
                raise DataLoss(
                    f"{path[:100]} of the archive has {size} bytes, not {descriptor.size}", reason="SIZE_MISMATCH"
                )

            async def chunks() -> AsyncIterator[bytes]:
                at = offset
                while chunk := await in_thread(partial(os.pread, fd, _CHUNK, at)):
                    at += len(chunk)
                    yield chunk

            yield chunks()


def _name(annotations: dict[str, Any]) -> str:
    """The name that an index entry gives its image, canonical; "" where it gives none that is one."""
    for key in (CONTAINERD_NAME, REF_NAME):
        value = annotations.get(key)
        if isinstance(value, str) and ("/" in value or ":" in value):
            with contextlib.suppress(ShoalError):
                reference = Reference.parse(value)
                if reference.digest is None:
                    return str(reference.docker_ref())
    return ""


def loaded(digest: str) -> Reference:
    """The reference of a manifest of an archive."""
    return Reference.parse(f"localhost/loaded@{digest}")


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise _bad(str(error)) from error


def _place(digest: str) -> str:
    found = _digest(digest)
    return f"blobs/{found.algorithm}/{found.hex}"


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(f"the archive holds no image: {why}", reason="BAD_ARCHIVE")
