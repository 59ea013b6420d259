"""Pulling: from a reference to an image that is ready to run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.host.blocking import in_thread, to_end
from shoald.host.inherit import Below, hide_all, inherit_directories
from shoald.host.overlayfs import MAX_LOWERS
from shoald.images.flights import Flight, Flights, all_of
from shoald.images.layerfetch import LayerFetcher, Origin, Staged
from shoald.images.progress import Meter
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import Image, Progress, ProgressPhase
from shoald.model.snapshot import Snapshot
from shoald.oci.config import ImageConfig, parse_config
from shoald.oci.manifest import Descriptor, Index, Manifest
from shoald.oci.mediatypes import CONFIGS, is_layer
from shoald.oci.parse import parse_manifest
from shoald.oci.select import select_platform
from shoald.registry.ports import Credentials, Source
from shoald.registry.verify import read_blob
from shoald.snapshots.ports import Snapshotter

Emit = Callable[[Progress], None]
MAX_LAYERS = MAX_LOWERS - 1
"""Layers of an image; one more must fit for the container's own."""
_MAX_NESTING = 4


class Found(Struct, frozen=True):
    """An image in a registry, with all documents verified."""

    ref: Reference
    resolved: str
    """Digest of what the reference stands for: an index, or the manifest itself."""
    manifest: Manifest
    manifest_descriptor: Descriptor
    manifest_body: bytes
    config: ImageConfig
    config_body: bytes


class Puller:
    """Pulls images; safe for many at once, which share what they have in common."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        registry: Source,
        fetcher: LayerFetcher,
        *,
        nameless: bool = False,
    ) -> None:
        """`nameless`: what is pulled gets no names; the registry is none that can be asked again."""
        self._nameless = nameless
        self._md = md
        self._content = content
        self._snapshots = snapshots
        self._registry = registry
        self._fetcher = fetcher
        self._flights: Flights[Staged] = Flights(fetcher.drop)
        self._committing = asyncio.Lock()

    async def pull(
        self,
        ref: Reference,
        platform: Platform | None,
        credentials: Credentials | None,
        emit: Emit,
        *,
        tagged: bool = True,
    ) -> Image:
        """See ImageStore.pull. Without a platform: for whichever it is, of an index for this machine."""
        found = await self._find(ref, platform, credentials)
        digests = [str(found.manifest_descriptor.digest), *(part.digest for part in found.manifest.parts)]
        try:
            with self._md.leases.lease("pull") as lease:
                for digest in digests:
                    self._md.leases.hold(lease, HoldKind.BLOB, digest)
                await all_of([self._documents(found), self._layers(found, lease, credentials, emit)])
                return self._record(found, tagged=tagged)
        except ShoalError as error:
            if error.reason in ("DISK_FULL", "QUOTA_EXCEEDED"):
                await to_end(self._give_back(digests))
            raise

    async def _give_back(self, digests: Sequence[str]) -> None:
        """Delete the blobs that only this pull wanted."""
        for digest in digests:
            await self._content.delete(Digest.parse(digest), unless=partial(self._md.references.has_blob, digest))

    async def _find(self, ref: Reference, platform: Platform | None, credentials: Credentials | None) -> Found:
        resolved = await self._registry.resolve(ref, credentials=credentials)
        descriptor, body = resolved.descriptor, resolved.body
        document = parse_manifest(body, descriptor.media_type)
        for _ in range(_MAX_NESTING):
            if not isinstance(document, Index):
                break
            descriptor = select_platform(document, platform or Platform.host())
            body = await self._registry.manifest(ref, descriptor, credentials=credentials)
            document = parse_manifest(body, descriptor.media_type)
        if isinstance(document, Index):
            raise InvalidArgument(f"{ref.familiar()}: indexes nested too deep", reason="BAD_MANIFEST")
        _check_manifest(ref, document)
        config_body = await read_blob(self._registry, ref, document.config, credentials=credentials)
        config = parse_config(config_body)
        _check_config(ref, document, config, platform)
        return Found(ref, resolved.descriptor.digest, document, descriptor, body, config, config_body)

    async def _documents(self, found: Found) -> None:
        await self._content.put(found.manifest_body, Digest.parse(found.manifest_descriptor.digest))
        await self._content.put(found.config_body, Digest.parse(found.manifest.config.digest))

    async def _layers(self, found: Found, lease: str, credentials: Credentials | None, emit: Emit) -> None:
        """Bring all layers here, committed and held by the lease."""
        chains = found.config.chain_ids()
        layers = found.manifest.layers
        missing = self._first_missing(chains, lease)
        for descriptor in layers[:missing]:
            if self._nameless:
                await self._keep(found.ref, descriptor)
            Meter(descriptor.digest, descriptor.size, emit).finished(ProgressPhase.EXISTS)
        async with contextlib.AsyncExitStack() as stack:
            flights: list[Flight[Staged]] = []
            for at in range(missing, len(layers)):
                origin = Origin(found.ref, layers[at], found.config.rootfs.diff_ids[at], credentials)
                flights.append(await stack.enter_async_context(self._flights.join(chains[at], self._work(origin))))
            staged = await all_of([flight.result(emit) for flight in flights])
            async with self._committing:
                await to_end(self._commit(chains, missing, staged, lease))
        for descriptor in layers[missing:]:
            Meter(descriptor.digest, descriptor.size, emit).finished()

    async def _keep(self, ref: Reference, descriptor: Descriptor) -> None:
        """The compressed form of a layer that is here unpacked: what it came from can't be asked for it later."""
        digest = Digest.parse(descriptor.digest)
        if self._content.size(digest) is not None:
            return
        async with self._content.ingest(digest, descriptor.size) as ingest:
            async with self._registry.blob(ref, descriptor, ingest.offset) as chunks:
                async for chunk in chunks:
                    ingest.write(chunk)
            await ingest.commit()

    def _first_missing(self, chains: Sequence[str], lease: str) -> int:
        """How many layers are here already, from the lowest on; the lease holds them from now on."""
        for at in range(len(chains), 0, -1):
            snapshot = self._md.snapshots.by_chain(chains[at - 1])
            if snapshot is not None and snapshot.committed:
                self._md.leases.hold(lease, HoldKind.SNAPSHOT, snapshot.id)
                return at
        return 0

    def _work(self, origin: Origin) -> Callable[[Flight[Staged]], Awaitable[Staged]]:
        async def work(flight: Flight[Staged]) -> Staged:
            meter = Meter(origin.descriptor.digest, origin.descriptor.size, flight.report)
            return await self._fetcher.fetch(origin, meter)

        return work

    async def _commit(self, chains: Sequence[str], missing: int, staged: Sequence[Staged], lease: str) -> None:
        """Make staged layers part of their chain: first all files durable, at once, then the rows, lowest first."""
        if not staged:
            return
        await self._settle(chains, missing, staged)
        await self._snapshots.sync()
        parent = self._md.snapshots.by_chain(chains[missing - 1]) if missing else None
        for chain, each in zip(chains[missing:], staged, strict=True):
            snapshot = self._md.snapshots.by_chain(chain)
            if snapshot is None:
                self._md.snapshots.adopt(each.snapshot.id, parent.id if parent else None)
                snapshot = await self._snapshots.commit(
                    each.snapshot.id,
                    chain_id=chain,
                    diff_id=each.unpacked.diff_id,
                    size_bytes=each.unpacked.content_bytes,
                    durable=False,
                )
            self._md.leases.hold(lease, HoldKind.SNAPSHOT, snapshot.id)
            parent = snapshot

    async def _settle(self, chains: Sequence[str], missing: int, staged: Sequence[Staged]) -> None:
        """Directories that a layer does not describe take after those below."""
        base = self._md.snapshots.by_chain(chains[missing - 1]) if missing else None
        below = [self._below(each) for each in self._snapshots.chain(base.id)] if base else []
        for chain, each in zip(chains[missing:], staged, strict=True):
            done = self._md.snapshots.by_chain(chain)
            own = self._below(done or each.snapshot)
            if done is None and below:
                if each.unpacked.opaque_root:
                    await in_thread(partial(hide_all, own.path, list(below)))
                elif each.unpacked.implicit:
                    await in_thread(partial(inherit_directories, own.path, list(below), each.unpacked.implicit))
            below.insert(0, own)

    def _below(self, snapshot: Snapshot) -> Below:
        return Below(self._snapshots.fs_path(snapshot.id), snapshot.uid_base)

    def _record(self, found: Found, *, tagged: bool) -> Image:
        """The image's row, its names and its blobs, in one transaction."""
        chains = found.config.chain_ids()
        layers = found.manifest.layers
        top = self._md.snapshots.by_chain(chains[-1]) if chains else None
        image_id = found.manifest.config.digest
        tags = (str(found.ref),) if tagged and found.ref.digest is None and not self._means(found) else ()
        origin = str(found.ref.without_tag().with_digest(Digest.parse(found.resolved)))
        repo_digests = () if self._nameless else (origin,)
        with self._md.transaction():
            for descriptor in (found.manifest_descriptor, *found.manifest.parts):
                self._md.blobs.add(descriptor.digest, descriptor.size, descriptor.media_type)
            known = self._md.images.get(image_id)
            if known is not None and not self._complete(layers):
                # The same image in another wrapping, whose layers were not needed: the first one can still be pushed.
                for tag in tags:
                    self._md.images.tag(tag, image_id)
                for repo_digest in repo_digests:
                    self._md.images.add_repo_digest(repo_digest, image_id)
                image = self._md.images.get(image_id)
                assert image is not None
                return image
            return self._md.images.put(
                Image(
                    id=image_id,
                    manifest_digest=found.manifest_descriptor.digest,
                    manifest_media_type=found.manifest_descriptor.media_type,
                    config=found.config,
                    created_at=created_at(found.config),
                    size_bytes=sum(each.size_bytes for each in self._snapshots.chain(top.id)) if top else 0,
                    chain_id=chains[-1] if chains else "",
                    tags=tags,
                    repo_digests=repo_digests,
                ),
                [layer.digest for layer in layers],
            )

    def _means(self, found: Found) -> bool:
        """Whether the name means this already, as part of the same index, which is here as a whole."""
        index = self._md.indexes.named(str(found.ref))
        return index is not None and (index.digest, index.image_id) == (found.resolved, found.manifest.config.digest)

    def _complete(self, layers: Sequence[Descriptor]) -> bool:
        return all(self._content.size(Digest.parse(layer.digest)) is not None for layer in layers)


def created_at(config: ImageConfig) -> datetime:
    """When an image was made by its configuration, else now; UTC."""
    if config.created:
        with contextlib.suppress(ValueError, OverflowError):
            stated = datetime.fromisoformat(config.created)
            return stated.replace(tzinfo=UTC) if stated.tzinfo is None else stated.astimezone(UTC)
    return datetime.now(UTC)


def _check_manifest(ref: Reference, manifest: Manifest) -> None:
    if manifest.config.media_type not in CONFIGS:
        raise InvalidArgument(
            f"{ref.familiar()} is no container image: its configuration is a {manifest.config.media_type[:100]}",
            reason="NOT_AN_IMAGE",
            hint="it may be an artifact, such as a chart or a signature",
        )
    for layer in manifest.layers:
        if not is_layer(layer.media_type):
            raise InvalidArgument(
                f"{ref.familiar()} has a layer of the type {layer.media_type[:100]}, which is no file system",
                reason="NOT_AN_IMAGE",
            )
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidArgument(
            f"{ref.familiar()} has {len(manifest.layers)} layers; {MAX_LAYERS} is the limit", reason="TOO_MANY_LAYERS"
        )


def _check_config(ref: Reference, manifest: Manifest, config: ImageConfig, platform: Platform | None) -> None:
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise InvalidArgument(
            f"{ref.familiar()} has {len(manifest.layers)} layers, but its configuration speaks of "
            f"{len(config.rootfs.diff_ids)}",
            reason="BAD_IMAGE_CONFIG",
        )
    try:
        made_for = config.platform
    except InvalidArgument:
        return  # it says nothing that makes sense: old tools left it empty
    if platform is not None and not platform.matches(made_for):
        raise NotFound(
            f"no matching manifest for {platform}: {ref.familiar()} is made for {made_for} only",
            reason="NO_MATCHING_PLATFORM",
            hint=f"ask for it with `--platform {made_for}`, or look for an image for {platform}",
            metadata={"platform": str(platform)},
        )
