"""A registry in memory: passes the same contract suite as the real client, and fails on command."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, NotFound, ShoalError, Unauthenticated
from shoal.reference import Reference
from shoald.oci.manifest import Descriptor, Index
from shoald.oci.parse import manifest_type, parse_manifest
from shoald.registry.ports import Credentials, OpenBody, Progress, Resolved
from shoald.registry.verify import verify

CHUNK = 256 * 1024


@dataclass
class Repository:
    """What one repository of a registry holds."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    """Digest -> bytes and media type."""
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


class FakeRegistry:
    """Implements `Registry`. What tests may use besides:

    `calls` counts the calls by method name; `failures` maps a method name to errors, each raised once, in order;
    `corrupt` maps a digest to other bytes of the same length to serve; `gate`, while not set, holds blobs back after
    their first chunk; `login` is what every call must bring, if not None.
    """

    def __init__(self, *, login: Credentials | None = None) -> None:
        self.repositories: dict[str, Repository] = {}
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, list[ShoalError]] = {}
        self.corrupt: dict[str, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.login = login
        self.open_blobs = 0
        """Blobs that are being read at this moment: 0 when nothing leaks."""

    async def resolve(self, ref: Reference, *, credentials: Credentials | None = None) -> Resolved:
        """See Registry.resolve."""
        repository = self._enter("resolve", ref, credentials)
        digest = str(ref.digest) if ref.digest is not None else repository.tags.get(ref.selector, "")
        body, media_type = self._manifest(repository, ref, digest)
        verify(body, digest, None, f"manifest for {ref.familiar()}")
        found = Descriptor(media_type=manifest_type(body, media_type), digest=digest, size=len(body))
        return Resolved(found, body)

    async def manifest(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bytes:
        """See Registry.manifest."""
        body, _ = self._manifest(self._enter("manifest", ref, credentials), ref, descriptor.digest)
        verify(body, descriptor.digest, descriptor.size, f"manifest for {ref.familiar()}")
        manifest_type(body, descriptor.media_type)
        return body

    @asynccontextmanager
    async def blob(
        self, ref: Reference, descriptor: Descriptor, offset: int = 0, *, credentials: Credentials | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Registry.blob."""
        repository = self._enter("blob", ref, credentials)
        if descriptor.digest not in repository.blobs:
            raise NotFound(f"blob {descriptor.digest} not found", reason="BLOB_NOT_FOUND")
        body = self.corrupt.get(descriptor.digest, repository.blobs[descriptor.digest])
        if len(body) != descriptor.size:
            raise DataLoss(f"blob {descriptor.digest} has {len(body)} bytes", reason="SIZE_MISMATCH")
        self.open_blobs += 1
        try:
            yield self._chunks(body, offset)
        finally:
            self.open_blobs -= 1

    async def blob_exists(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bool:
        """See Registry.blob_exists."""
        return descriptor.digest in self._enter("blob_exists", ref, credentials).blobs

    async def push_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        open_body: OpenBody,
        mount_from: str | None = None,
        *,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """See Registry.push_blob."""
        repository = self._enter("push_blob", ref, credentials)
        if descriptor.digest in repository.blobs:
            return False
        neighbour = self.repositories.get(f"{ref.domain}/{mount_from}", Repository())
        if descriptor.digest in neighbour.blobs:
            repository.blobs[descriptor.digest] = neighbour.blobs[descriptor.digest]
            return False
        body = bytearray()
        async for part in open_body():
            body += part
            if len(body) > descriptor.size:
                break
            if progress is not None:
                progress(len(body))
        verify(bytes(body), descriptor.digest, descriptor.size, f"push of blob {descriptor.digest}")
        repository.blobs[descriptor.digest] = bytes(body)
        return True

    async def push_manifest(
        self,
        ref: Reference,
        body: bytes,
        media_type: str,
        tag_or_digest: str | None = None,
        *,
        credentials: Credentials | None = None,
    ) -> str:
        """See Registry.push_manifest."""
        repository = self._enter("push_manifest", ref, credentials)
        parsed = parse_manifest(body, media_type)
        names = parsed.manifests if isinstance(parsed, Index) else parsed.parts
        held = repository.manifests.keys() if isinstance(parsed, Index) else repository.blobs.keys()
        if missing := [each.digest for each in names if each.digest not in held]:
            raise FailedPrecondition(f"push of {ref.familiar()}: lacks {missing[0]}", reason="MANIFEST_REFUSED")
        name = tag_or_digest or ref.selector
        digest = str(Digest.of(body))
        if ":" in name:
            verify(body, name, None, f"manifest for {ref.familiar()}")
            digest = name
        else:
            repository.tags[name] = digest
        repository.manifests[digest] = (body, media_type)
        return digest

    async def close(self) -> None:
        """See Registry.close."""
        self.calls["close"] += 1

    def _enter(self, method: str, ref: Reference, credentials: Credentials | None) -> Repository:
        self.calls[method] += 1
        if waiting := self.failures.get(method):
            raise waiting.pop(0)
        if self.login is not None and credentials != self.login:
            raise Unauthenticated(f"{ref.registry_host} needs a login", reason="REGISTRY_AUTH")
        return self.repositories.setdefault(ref.name, Repository())

    def _manifest(self, repository: Repository, ref: Reference, digest: str) -> tuple[bytes, str]:
        if digest not in repository.manifests:
            raise NotFound(f"manifest for {ref.familiar()} not found: manifest unknown", reason="IMAGE_NOT_FOUND")
        body, media_type = repository.manifests[digest]
        return self.corrupt.get(digest, body), media_type

    async def _chunks(self, body: bytes, offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(body), CHUNK):
            yield body[at : at + CHUNK]
            await self.gate.wait()
