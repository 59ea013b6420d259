"""Layers of a build as blobs: each is packed once, beside the next steps, and found again through the cache."""

from __future__ import annotations

import asyncio

from shoal.digest import Digest
from shoald.build.solver import StepLayer
from shoald.content.ports import ContentStore
from shoald.images.layers import LayerBlob, Layers
from shoald.metadata import HoldKind, Metadata
from shoald.oci.mediatypes import OCI_LAYER_GZIP

AT_ONCE = 2


class Packing:
    """Packs layers, a few at a time."""

    def __init__(self, md: Metadata, content: ContentStore, layers: Layers) -> None:
        self._md = md
        self._content = content
        self._layers = layers
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, asyncio.Task[LayerBlob]] = {}

    def begin(self, layer: StepLayer, lease: str) -> None:
        """Start in the background; the lease holds the blob."""
        if layer.snapshot_id in self._running or self._known(layer, lease) is not None:
            return
        task = asyncio.create_task(self._pack(layer, lease))
        self._running[layer.snapshot_id] = task
        task.add_done_callback(lambda done: self._ended(layer, done))

    def _ended(self, layer: StepLayer, task: asyncio.Task[LayerBlob]) -> None:
        self._running.pop(layer.snapshot_id, None)
        if not task.cancelled():
            task.exception()  # blob() packs again and raises it

    async def blob(self, layer: StepLayer, lease: str) -> LayerBlob:
        """The blob of a layer, held by the lease."""
        running = self._running.get(layer.snapshot_id)
        if running is not None:
            await asyncio.wait([running])
        known = self._known(layer, lease)
        return known if known is not None else await self._pack(layer, lease)

    def _known(self, layer: StepLayer, lease: str) -> LayerBlob | None:
        entry = self._md.cache.get(layer.key)
        if entry is None or entry.snapshot_id != layer.snapshot_id or not entry.diff_id or not entry.blob_digest:
            return None
        self._md.leases.hold(lease, HoldKind.BLOB, entry.blob_digest)
        size = self._content.size(Digest.parse(entry.blob_digest))
        if size is None:
            return None
        return LayerBlob(entry.diff_id, entry.blob_digest, size, OCI_LAYER_GZIP, entry.size_bytes)

    async def _pack(self, layer: StepLayer, lease: str) -> LayerBlob:
        async with self._slots:
            snapshot = self._md.snapshots.get(layer.snapshot_id)
            assert snapshot is not None
            blob = await self._layers.pack_layer(snapshot, lease=lease)
        entry = self._md.cache.get(layer.key)
        if entry is not None and entry.snapshot_id == layer.snapshot_id:
            self._md.cache.set_blob(layer.key, diff_id=blob.diff_id, blob_digest=blob.digest)
        return blob

    async def close(self) -> None:
        """Stop."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
