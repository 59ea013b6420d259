"""Use cases of images: pull, push, list, inspect, tag, remove."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from shoal.digest import Digest
from shoal.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.content.ports import ContentStore
from shoald.engine.operations import Emit, Operations
from shoald.engine.ports import Pushed
from shoald.gc.collect import Collected
from shoald.host.blocking import to_end
from shoald.host.syscall import translated
from shoald.host.trees import remove_tree
from shoald.images.layers import Layers
from shoald.images.store import ImageStore
from shoald.metadata.store import Metadata
from shoald.model.image import Image, IndexRecord, Loaded, Progress, ProgressPhase, RegistryCredentials
from shoald.model.metrics import EngineMetrics

Publish = Callable[[str, str, str, dict[str, str]], None]


class ImageCases:
    """What a caller can do with images."""

    def __init__(
        self,
        md: Metadata,
        content: ContentStore,
        store: ImageStore,
        operations: Operations,
        publish: Publish,
        collect: Callable[[], Coroutine[Any, Any, Collected]],
        metrics: EngineMetrics,
        layers: Layers,
        tmp_dir: Path,
    ) -> None:
        """`collect` runs the garbage collector."""
        self._layers = layers
        self._tmp_dir = tmp_dir
        self._metrics = metrics
        self._md = md
        self._content = content
        self._store = store
        self._operations = operations
        self._publish = publish
        self._collect = collect

    async def pull(
        self, request_id: str, reference: str, platform: Platform | None, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Image]:
        """See engine.ports.Engine.pull."""

        async def work(emit: Emit) -> Image:
            return await self.pull_now(reference, platform, credentials, emit)

        operation, _ = self._operations.start(request_id, "pull", f"{reference} {platform}", work)
        async for _, event in operation.follow():
            yield event  # type: ignore[misc]
        yield await operation.result()

    async def pull_now(
        self,
        reference: str,
        platform: Platform | None,
        credentials: RegistryCredentials | None,
        emit: Emit = lambda _: None,
        *,
        tagged: bool = True,
    ) -> Image:
        """Pull without an operation of its own, as part of another; not `tagged`: the reference's tag stays where it
        is."""
        try:
            async with measured(self._metrics, "pull"):
                counting = _Counting(emit, self._metrics)
                image = await self._store.pull(reference, platform, credentials, counting, tagged=tagged)
        except (DataLoss, InvalidArgument, NotFound):
            # A retry would fail alike: nothing of it is worth keeping. After others, complete layers are.
            await to_end(self._collect())
            raise
        self._publish("image", "pull", image.id, {"name": str(Reference.parse(reference).with_default_tag())})
        return image

    async def push(
        self, request_id: str, reference: str, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Pushed]:
        """See engine.ports.Engine.push."""

        async def work(emit: Emit) -> Pushed:
            canonical = str(Reference.parse(reference).with_default_tag())
            async with measured(self._metrics, "push"):
                digest, size = await self._store.push(reference, credentials, emit)
            self._publish(
                "image", "push", self._md.images.find(canonical).id, {"name": canonical, "digest": str(digest)}
            )
            return Pushed(canonical, str(digest), size)

        operation, _ = self._operations.start(request_id, "push", reference, work)
        async for _, event in operation.follow():
            yield event  # type: ignore[misc]
        yield await operation.result()

    async def load(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Progress | Loaded]:
        """See engine.ports.Engine.load_images."""
        place = self._tmp_dir / f"load-{secrets.token_hex(8)}"
        with translated("make directory"):
            place.mkdir(mode=0o700, parents=True)
        try:
            await self._layers.unpack_context(chunks, place)
            queue: asyncio.Queue[Progress | None] = asyncio.Queue()
            task = asyncio.create_task(self._store.load(place, queue.put_nowait))
            task.add_done_callback(lambda _: queue.put_nowait(None))
            try:
                while (progress := await queue.get()) is not None:
                    yield progress
                loaded = await task
            finally:
                task.cancel()
                await asyncio.wait([task])
        except (DataLoss, InvalidArgument, NotFound):
            await to_end(self._collect())  # a retry would fail alike
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, place))
        for each in loaded:
            self._publish("image", "load", each.image.id, {"name": each.names[0] if each.names else ""})
            yield each

    def save(self, names: Sequence[str], docker: bool, expected_id: str) -> AsyncIterator[bytes]:
        """See engine.ports.Engine.save_images."""
        for name in names if expected_id else ():
            index = self._store.indexer.find(name)
            if expected_id not in (self._md.images.find(name).id, index.digest if index else ""):
                raise FailedPrecondition(f"{name} means another image by now", reason="IMAGE_CHANGED")
        return self._store.export(names, docker=docker)

    async def list_images(
        self,
        reference: str = "",
        labels: Sequence[tuple[str, str]] = (),
        dangling: bool = False,
        parts: bool = False,
    ) -> list[Image]:
        """Newest first; `parts`: with those that only an index names."""
        wanted = Reference.parse(reference) if reference else None
        found = [image for image in self._md.images.list() if _selects(image, wanted, labels, dangling)]
        return [image for image in found if (parts and not dangling) or image.tags or not image.part_of]

    async def create_index(self, images: Sequence[str], tags: Sequence[str]) -> IndexRecord:
        """See engine.ports.Engine.create_index."""
        parts = [part for name in images for part in self._store.indexer.parts(name)]
        names = [str(Reference.parse(tag).docker_ref()) for tag in tags]
        if any("@" in name for name in names):
            raise InvalidArgument("a tag can't have a digest", reason="INVALID_REFERENCE")
        record = await self._store.indexer.create(parts, names)
        for name in names:
            self._publish("image", "tag", record.image_id, {"name": name})
        return record

    def index_of(self, name: str) -> tuple[IndexRecord, bytes]:
        """See engine.ports.Engine.inspect_index."""
        record = self._store.indexer.find(name)
        if record is None:
            image = self._md.images.find(name)
            raise NotFound(f"{name} is no index", reason="INDEX_NOT_FOUND", metadata={"image": image.id})
        return record, self._store.indexer.document(record)[0]

    async def inspect_image(self, name: str) -> tuple[Image, bytes]:
        """The image and its raw configuration."""
        image = self._md.images.find(name)
        return image, self._content.read(Digest.parse(image.id))

    def image_users(self, image_id: str) -> int:
        """Number of containers."""
        return len(self._md.containers.using_image(image_id))

    async def tag_image(self, source: str, target: str) -> None:
        """Give a name."""
        image, canonical = self._store.tag(source, target)
        self._publish("image", "tag", image.id, {"name": canonical})

    async def remove_image(self, name: str, force: bool) -> tuple[list[str], list[str]]:
        """(untagged references, deleted ids)."""
        untagged, deleted = await self._store.remove_image(name, force)
        await self._removed(untagged, deleted)
        return list(untagged), list(deleted)

    async def prune_images(
        self, labels: Sequence[tuple[str, str]], until: datetime | None, unused: bool
    ) -> tuple[list[str], list[str], int]:
        """See engine.ports.Engine.prune_images."""

        def wanted(image: Image) -> bool:
            return _selects(image, None, labels, False) and (until is None or image.created_at < until)

        untagged, deleted = self._store.prune(wanted, unused=unused)
        return untagged, deleted, await self._removed(untagged, deleted)

    async def _removed(self, untagged: Sequence[str], deleted: Sequence[str]) -> int:
        """Tell of it, and collect the garbage; the bytes that this freed."""
        for reference in untagged:
            self._publish("image", "untag", "", {"name": reference})
        for image_id in deleted:
            self._publish("image", "delete", image_id, {})
        return (await self._collect()).bytes if deleted else 0


class _Counting:
    """Passes progress on, and counts the bytes that came."""

    def __init__(self, emit: Emit, metrics: EngineMetrics) -> None:
        self._emit = emit
        self._metrics = metrics
        self._seen: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        # A quick download has no record between its first and that of the next phase, which says that all came. The
        # first one tells what an earlier try had left; a layer that was there begins with another phase.
        before = self._seen.get(progress.id)
        if before is not None:
            self._metrics.pulled(max(0, progress.done_bytes - before))
        if before is not None or progress.phase is ProgressPhase.DOWNLOADING:
            self._seen[progress.id] = max(before or 0, progress.done_bytes)
        self._emit(progress)


@contextlib.asynccontextmanager
async def measured(metrics: EngineMetrics, kind: str) -> AsyncIterator[None]:
    """Count the block as an operation."""
    begun = time.monotonic()
    failed = True
    try:
        yield
        failed = False
    finally:
        metrics.operation(kind, time.monotonic() - begun, failed=failed)


def _selects(image: Image, wanted: Reference | None, labels: Sequence[tuple[str, str]], dangling: bool) -> bool:
    if dangling and image.tags:
        return False
    have = image.config.defaults.labels or {}
    if not all(key in have and (not value or have[key] == value) for key, value in labels):
        return False
    if wanted is None:
        return True
    names = [Reference.parse(tag) for tag in image.tags]
    return any(n.name == wanted.name and wanted.tag in (None, n.tag) for n in names)


def fingerprint(*parts: Any) -> str:
    """A short text that tells two requests apart."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
