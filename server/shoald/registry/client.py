"""The registry client: OCI distribution-spec 1.1 over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import aiohttp

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from shoal.reference import Reference
from shoald.oci.manifest import Descriptor
from shoald.oci.mediatypes import ACCEPT, INDEXES, MANIFESTS, base_type
from shoald.oci.parse import MAX_MANIFEST_BYTES, manifest_type
from shoald.registry.blobs import BlobReader
from shoald.registry.failures import Lost
from shoald.registry.http import discard, read_capped
from shoald.registry.ports import Credentials, OpenBody, Progress, Resolved
from shoald.registry.session import Session, Sleep, Wire
from shoald.registry.settings import RegistrySettings
from shoald.registry.uploads import Upload
from shoald.registry.verify import verify

_DIGEST_HEADER = "Docker-Content-Digest"


class RegistryClient:
    """Implements `Registry` for real registries. Opens connections at first use; `close` ends them."""

    def __init__(self, settings: RegistrySettings | None = None, *, sleep: Sleep = asyncio.sleep) -> None:
        self._settings = settings or RegistrySettings()
        self._wire = Wire(self._settings, sleep)

    async def resolve(self, ref: Reference, *, credentials: Credentials | None = None) -> Resolved:
        """See Registry.resolve."""
        session = self._session(ref, credentials, "pull")
        body, announced, told = await self._get_manifest(session, ref.selector)
        if ref.digest is not None:
            verify(body, str(ref.digest), None, f"manifest for {ref.familiar()}")
        elif told:
            verify(body, told, None, f"manifest for {ref.familiar()}")
        digest = str(ref.digest or Digest.of(body))
        descriptor = Descriptor(media_type=manifest_type(body, announced), digest=digest, size=len(body))
        return Resolved(descriptor, body)

    async def manifest(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bytes:
        """See Registry.manifest."""
        what = f"manifest {descriptor.digest} of {ref.familiar_name}"
        if descriptor.size > MAX_MANIFEST_BYTES:
            raise DataLoss(f"{what} is larger than {MAX_MANIFEST_BYTES} bytes", reason="SIZE_MISMATCH")
        session = self._session(ref, credentials, "pull")
        body, announced, _ = await self._get_manifest(session, descriptor.digest)
        verify(body, descriptor.digest, descriptor.size, what)
        if announced in INDEXES | MANIFESTS and announced != base_type(descriptor.media_type):
            raise InvalidArgument(
                f"{what} is announced as {announced}, but referred to as {descriptor.media_type[:100]}",
                reason="BAD_MANIFEST",
            )
        manifest_type(body, descriptor.media_type)
        return body

    def blob(
        self, ref: Reference, descriptor: Descriptor, offset: int = 0, *, credentials: Credentials | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Registry.blob."""
        return BlobReader(self._wire, self._session(ref, credentials, "pull"), descriptor, offset)

    async def blob_exists(
        self, ref: Reference, descriptor: Descriptor, *, credentials: Credentials | None = None
    ) -> bool:
        """See Registry.blob_exists."""
        return await self._has_blob(self._session(ref, credentials, "pull"), descriptor)

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
        session = self._session(ref, credentials, "pull,push", mount_from)
        if await self._has_blob(session, descriptor):
            return False
        return await Upload(self._wire, session, descriptor, open_body, progress).run(mount_from)

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
        name = tag_or_digest or ref.selector
        digest = str(Digest.of(body))
        if ":" in name:
            digest = name
            verify(body, digest, None, f"manifest for {ref.familiar()}")
        session = self._session(ref, credentials, "pull,push")
        response = await session.call(
            "PUT", f"manifests/{name}", headers={"Content-Type": media_type}, body=lambda: body
        )
        if response.status not in (200, 201, 202):
            raise await self._push_failure(session, response)
        told = response.headers.get(_DIGEST_HEADER)
        await discard(response)
        if told:
            verify(body, told, None, f"manifest that {session.registry} stored for {ref.familiar()}")
        return digest

    async def close(self) -> None:
        """See Registry.close."""
        await self._wire.http.close()

    def _session(
        self, ref: Reference, credentials: Credentials | None, actions: str, mount_from: str | None = None
    ) -> Session:
        scopes = [f"repository:{ref.path}:{actions}"]
        if mount_from and mount_from != ref.path:
            scopes.append(f"repository:{mount_from}:pull")
        chosen = credentials or self._settings.credentials.get(ref.domain)
        if chosen is not None and not (chosen.password or chosen.identity_token):
            chosen = None
        return Session(self._wire, ref, chosen, scopes)

    async def _get_manifest(self, session: Session, selector: str) -> tuple[bytes, str, str]:
        """The bytes of a manifest, its announced type and the digest that the registry states, or ""."""
        shown = session.ref.familiar()
        what = f"manifest for {shown}"
        for attempt in range(self._settings.attempts):
            response = await session.call("GET", f"manifests/{selector}", headers={"Accept": ", ".join(ACCEPT)})
            if response.status != 200:
                missing = NotFound(
                    f"{what} not found: manifest unknown",
                    reason="IMAGE_NOT_FOUND",
                    hint=f"check the name and the tag; {session.registry} does not have it",
                    metadata={"image": shown, "registry": session.registry},
                )
                raise await session.fail(response, what, missing)
            try:
                body = await read_capped(response, MAX_MANIFEST_BYTES, what)
            except Lost as e:
                response.close()
                if attempt == self._settings.attempts - 1:
                    raise e.error from e
                await self._wire.pause(attempt)
                continue
            announced = base_type(response.headers.get("Content-Type", ""))
            return body, announced, response.headers.get(_DIGEST_HEADER, "")
        raise AssertionError("no attempts")

    async def _has_blob(self, session: Session, descriptor: Descriptor) -> bool:
        response = await session.call("HEAD", f"blobs/{descriptor.digest}")
        status = response.status
        if status in (200, 404):
            await discard(response)
            return status == 200
        raise await session.fail(response, f"blob {descriptor.digest} of {session.ref.familiar_name}")

    async def _push_failure(self, session: Session, response: aiohttp.ClientResponse) -> Exception:
        what = f"push of {session.ref.familiar()}"
        refused = FailedPrecondition(
            f"{what}: registry {session.registry} lacks the repository, or a part of the image",
            reason="MANIFEST_REFUSED",
        )
        return await session.fail(response, what, refused)
