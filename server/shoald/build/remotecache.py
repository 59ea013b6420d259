"""Caches of builds in registries, and those that clients lend: what is known of them, steps that come from them, and
writing them to registries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from shoal.digest import Digest
from shoal.errors import ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.build.cacheformat import MEDIA_TYPE, Record, read, read_inline, written
from shoald.build.cacherecords import layers_of, packed
from shoald.build.lending import CacheLenders, ClientCache
from shoald.build.packing import Packing
from shoald.build.solver import Build, StepLayer
from shoald.content.ports import ContentStore
from shoald.images.flights import all_of
from shoald.images.layerfetch import Origin
from shoald.images.restore import LayerRestorer
from shoald.metadata import Metadata
from shoald.model.build import BuildRequest, BuildWarning, CacheTarget
from shoald.model.image import RegistryCredentials
from shoald.oci.config import parse_config
from shoald.oci.manifest import Descriptor, Index
from shoald.oci.mediatypes import OCI_LAYER_GZIP, OCI_MANIFEST
from shoald.oci.parse import parse_manifest
from shoald.oci.select import select_platform
from shoald.registry.ports import Registry, Source
from shoald.registry.verify import read_blob

_PUSHED_AT_ONCE = 3
_LENT_AT_ONCE = 2
"""One comes while another is unpacked; pulls, and builds of other clients, do not wait for a slow one."""
_LENT = Reference.parse("localhost/client")
"""Stands for a client where registries have a reference."""


class RemoteCaches:
    """Safe for many builds at once."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        registry: Registry,
        restorer: LayerRestorer,
        lenders: CacheLenders,
        packing: Packing,
    ) -> None:
        self._md = md
        self._content = content
        self._registry = registry
        self._restorer = restorer
        self._lenders = lenders
        self._packing = packing

    # --- from --------------------------------------------------------------------------------------------------------

    async def known(
        self, request: BuildRequest, platform: Platform, emit: Callable[[object], None]
    ) -> dict[str, Origin]:
        """What the caches of the request have, by key. One that can't be had is a warning: the build goes on."""
        found: dict[str, Origin] = {}
        if request.no_cache:
            return found
        for name in request.cache_from:
            try:
                ref = Reference.parse(name).with_default_tag()
                credentials = _credentials(request, ref)
                for record in await self._records(self._registry, ref, platform, credentials):
                    found.setdefault(record.key, Origin(ref, record.layer, record.diff_id, credentials))
            except ShoalError as error:
                emit(BuildWarning("", f"the cache {name} can't be used: {error}"))
        for lent in request.lent_caches:
            source, gate = ClientCache(self._lenders, lent), asyncio.Semaphore(_LENT_AT_ONCE)
            try:
                for record in await self._records(source, _LENT, platform, None):
                    found.setdefault(record.key, Origin(_LENT, record.layer, record.diff_id, source=source, gate=gate))
            except ShoalError as error:
                emit(BuildWarning("", f"the cache {lent.name} can't be used: {error}"))
        return found

    async def _records(
        self, source: Source, ref: Reference, platform: Platform, credentials: RegistryCredentials | None
    ) -> list[Record]:
        resolved = await source.resolve(ref, credentials=credentials)
        body, descriptor = resolved.body, resolved.descriptor
        manifest = parse_manifest(body, descriptor.media_type)
        if isinstance(manifest, Index):
            descriptor = select_platform(manifest, platform)
            body = await source.manifest(ref, descriptor, credentials=credentials)
            manifest = parse_manifest(body, descriptor.media_type)
            if isinstance(manifest, Index):
                return []
        config = await read_blob(source, ref, manifest.config, credentials=credentials)
        if manifest.config.media_type == MEDIA_TYPE:
            return read(config, manifest)
        return read_inline(config, manifest, parse_config(config).rootfs.diff_ids)

    async def restored(self, build: Build, key: str, origin: Origin, parent_id: str | None, text: str) -> str | None:
        """The snapshot of a step, fetched, and in the local cache from now on. None, with a warning, if it failed."""
        try:
            snapshot = await self._restorer.restore(origin, parent_id, build.lease, build.emit)
        except ShoalError as error:
            build.emit(BuildWarning("", f"the cache has {text[:80]!r}, but it can't be fetched: {error}"))
            return None
        self._md.cache.put(key, snapshot.id, description=text[:1000], size_bytes=snapshot.size_bytes)
        if origin.descriptor.media_type == OCI_LAYER_GZIP:  # what packing would make
            self._md.cache.set_blob(key, diff_id=origin.diff_id, blob_digest=str(origin.digest))
        return snapshot.id

    # --- to ----------------------------------------------------------------------------------------------------------

    async def write(self, builds: Sequence[Build], results: Sequence[Sequence[StepLayer]]) -> None:
        """Write the caches that the request names, of the results' layers or of all steps, for all platforms together.
        Raises what the registry does, unless the target ignores errors."""
        build = builds[0]
        for target in build.request.cache_to:
            layers = layers_of(builds, results, all_steps=target.all_steps)
            try:
                await self._write(build, target, layers)
            except ShoalError as error:
                if not target.ignore_errors:
                    error.message = f"the image was built, but its cache was not written to {target.reference}: {error}"
                    raise
                build.emit(BuildWarning("", f"the cache was not written to {target.reference}: {error}"))

    async def _write(self, build: Build, target: CacheTarget, layers: Sequence[StepLayer]) -> None:
        ref = Reference.parse(target.reference).with_default_tag()
        credentials = _credentials(build.request, ref)
        records = await packed(self._md, self._packing, layers, build.lease)
        config, manifest = written(records)
        slots = asyncio.Semaphore(_PUSHED_AT_ONCE)

        async def push(part: Descriptor) -> None:
            async with slots:
                await self._registry.push_blob(
                    ref, part, lambda: self._content.stream(Digest.parse(part.digest)), credentials=credentials
                )

        await all_of(push(part) for part in {record.layer.digest: record.layer for record in records}.values())

        async def body() -> AsyncIterator[bytes]:
            yield config

        await self._registry.push_blob(ref, Descriptor.of(config, MEDIA_TYPE), body, credentials=credentials)
        await self._registry.push_manifest(ref, manifest, OCI_MANIFEST, credentials=credentials)


def _credentials(request: BuildRequest, ref: Reference) -> RegistryCredentials | None:
    """Those for this registry, and for no other."""
    given = [request.credentials, *request.cache_credentials]
    return next((each for each in given if each is not None and each.registry == ref.domain), None)
