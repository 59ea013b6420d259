"""One layer, from the registry into the content store and a staged snapshot, in one pipeline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from msgspec import Struct

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument, ResourceExhausted, ShoalError
from shoal.reference import Reference
from shoald.content.ports import ContentStore, Ingest
from shoald.host.blocking import in_thread, to_end
from shoald.images.progress import Meter
from shoald.images.unpacker import Unpacked, UnpackLimits, unpacking
from shoald.metadata import HoldKind, Metadata
from shoald.model.image import ProgressPhase
from shoald.model.snapshot import Snapshot
from shoald.oci.manifest import Descriptor
from shoald.registry.ports import Credentials, Source
from shoald.snapshots.ports import Snapshotter

_BATCH = 2 << 20
"""Bytes that are written at once."""


class Staged(Struct, frozen=True):
    """An unpacked layer that is not committed yet, and the lease that holds it and its blob."""

    snapshot: Snapshot
    unpacked: Unpacked
    lease: str


class Origin(Struct, frozen=True):
    """Where a layer comes from."""

    ref: Reference
    descriptor: Descriptor
    diff_id: str
    credentials: Credentials | None = None
    source: Source | None = None
    """Where it is read from; None: the registry of `ref`."""
    gate: asyncio.Semaphore | None = None
    """What bounds how many are fetched at once; None: that of all layers."""

    @property
    def digest(self) -> Digest:
        """Of the compressed blob."""
        return Digest.parse(self.descriptor.digest)


class LayerFetcher:
    """Fetches layers; safe for many at once."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        snapshots: Snapshotter,
        registry: Source,
        gate: asyncio.Semaphore,
        limits: UnpackLimits,
    ) -> None:
        self._md = md
        self._content = content
        self._snapshots = snapshots
        self._registry = registry
        self._gate = gate
        self._limits = limits

    async def fetch(self, origin: Origin, meter: Meter) -> Staged:
        """Download (unless the blob is here), verify, unpack, verify again.

        Leaves nothing behind when it fails, but for what a next try can resume from.

        Raises DataLoss (DIGEST_MISMATCH, SIZE_MISMATCH, LAYER_MISMATCH, TRUNCATED), InvalidArgument (BAD_LAYER),
        ResourceExhausted (DISK_FULL, ARCHIVE_TOO_LARGE), and what the registry raises.
        """
        meter.phase(ProgressPhase.WAITING)
        async with origin.gate or self._gate:
            lease = self._md.leases.create("layer")
            try:
                self._md.leases.hold(lease, HoldKind.BLOB, str(origin.digest))
                return await self._stage(origin, meter, lease)
            except BaseException:
                self._md.leases.release(lease)
                raise

    async def drop(self, staged: Staged) -> None:
        """Give a staged layer back; one that was committed meanwhile stays."""
        try:
            snapshot = self._md.snapshots.get(staged.snapshot.id)
            if snapshot is not None and not snapshot.committed:
                await self._snapshots.remove(snapshot.id)
        finally:
            self._md.leases.release(staged.lease)

    async def _stage(self, origin: Origin, meter: Meter, lease: str) -> Staged:
        snapshot = await self._snapshots.create_layer(None, lease=lease)
        try:
            unpacked = await self._fill(origin, meter, snapshot)
            if unpacked.diff_id != origin.diff_id:
                raise DataLoss(
                    f"layer {origin.digest} unpacks to {unpacked.diff_id}, but the image says {origin.diff_id}",
                    reason="LAYER_MISMATCH",
                    hint="the image is broken: build and push it again",
                    metadata={"digest": str(origin.digest)},
                )
        except BaseException:
            await to_end(self._snapshots.remove(snapshot.id))
            raise
        return Staged(snapshot, unpacked, lease)

    async def _fill(self, origin: Origin, meter: Meter, snapshot: Snapshot) -> Unpacked:
        digest, size = origin.digest, origin.descriptor.size
        directory = self._snapshots.fs_path(snapshot.id)
        async with self._content.ingest(digest, size) as ingest:
            try:
                if ingest.offset == 0 and size > 0:
                    async with unpacking(directory, "layer", limits=self._limits) as unpacker:
                        await self._download(origin, meter, ingest, unpacker.write)
                        meter.phase(ProgressPhase.UNPACKING, size)
                        # First the digest: it is the better explanation of an archive that makes no sense.
                        await ingest.commit()
                        with _as_layer(digest):
                            return await unpacker.finish()
                # Resumed or complete: what is there already must be unpacked too.
                await self._download(origin, meter, ingest)
                path = await ingest.commit()
            except BaseException as error:
                # What a client sent may not be what it says: nobody else's fetch is to go on with it.
                if origin.source is not None or isinstance(error, ResourceExhausted):
                    await to_end(ingest.discard())
                raise
        meter.phase(ProgressPhase.UNPACKING, size)
        async with unpacking(directory, "layer", source=path, limits=self._limits) as unpacker:
            with _as_layer(digest):
                return await unpacker.result()

    async def _download(
        self, origin: Origin, meter: Meter, ingest: Ingest, feed: Callable[[bytes], Awaitable[None]] | None = None
    ) -> None:
        """Bring what is missing of the blob; `feed` gets it too."""
        received = ingest.offset
        if received >= origin.descriptor.size:
            return
        meter.phase(ProgressPhase.DOWNLOADING, received)
        source = origin.source or self._registry
        blob = source.blob(origin.ref, origin.descriptor, received, credentials=origin.credentials)
        async with blob as chunks, _Writer(ingest) as writer:
            async for chunk in chunks:
                await writer.write(chunk)
                if feed is not None:
                    await feed(chunk)
                received += len(chunk)
                meter.advance(received)


class _Writer:
    """Writes to an ingest in a thread while more is received: a slow disk must not hold up the event loop."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Writer:
        return self

    async def write(self, chunk: bytes) -> None:
        """Append; raises what an earlier write met with."""
        self._batch.append(chunk)
        self._size += len(chunk)
        if self._size >= _BATCH:
            await self._pass_on()

    async def _pass_on(self) -> None:
        if self._writing is not None:
            await self._writing
        batch, self._batch, self._size = self._batch, [], 0
        self._writing = asyncio.create_task(in_thread(partial(self._write, batch)))

    def _write(self, batch: Sequence[bytes]) -> None:
        for chunk in batch:
            self._ingest.write(chunk)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._pass_on()
        if self._writing is not None:
            # Until the thread is done nobody may close the ingest. If something else went wrong, that is the error.
            await to_end(_ended(self._writing))
            if kind is None:
                await self._writing


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def _as_layer(digest: Digest) -> Iterator[None]:
    """Name the layer in errors of the unpacker."""
    try:
        yield
    except (InvalidArgument, DataLoss, ResourceExhausted) as error:
        renamed: ShoalError = type(error)(
            f"layer {digest.short}: {error.message}",
            reason="BAD_LAYER" if error.reason == "BAD_ARCHIVE" else error.reason,
            hint=error.hint,
            metadata={**error.metadata, "digest": str(digest)},
        )
        raise renamed from error
