"""The parts that images need, real ones, in a directory of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from shoald.content.local import LocalContent
from shoald.host.userns import UserNamespaces
from shoald.images.assemble import Assembler
from shoald.images.layers import Layers
from shoald.images.store import ImageStore
from shoald.metadata import Metadata
from shoald.model.image import Progress
from shoald.registry.client import RegistryClient
from shoald.registry.ports import Registry
from shoald.snapshots.overlay import OverlaySnapshotter


@dataclass(frozen=True)
class ImageHost:
    """A host without containers."""

    root: Path
    md: Metadata
    content: LocalContent
    snapshots: OverlaySnapshotter
    registry: Registry
    store: ImageStore
    layers: Layers
    assembler: Assembler

    def fs(self, chain_id: str) -> Path:
        """The files of a layer."""
        snapshot = self.md.snapshots.by_chain(chain_id)
        assert snapshot is not None
        assert snapshot.committed
        return self.snapshots.fs_path(snapshot.id)

    def left(self) -> dict[str, object]:
        """What is on disk and in the database: compared before and after what must leave nothing behind."""
        return {
            "snapshots": sorted(self.md.snapshots.ids()),
            "directories": sorted(each.name for each in (self.root / "snapshots").iterdir()),
            "blobs": sorted(map(str, self.content.digests())),
            "partials": sorted(map(str, self.content.partials())),
            "leases": (self.md.leases.held("blob"), self.md.leases.held("snapshot")),
            "images": sorted(image.id for image in self.md.images.list()),
        }


@contextlib.asynccontextmanager
async def image_host(root: Path, registry: Registry | None = None) -> AsyncIterator[ImageHost]:
    """Open everything below `root` while the block runs."""
    root.mkdir(parents=True, exist_ok=True)
    namespaces = UserNamespaces()
    client = registry or RegistryClient()
    with Metadata.open(root / "meta.db") as md:
        content = LocalContent(root / "content")
        snapshots = OverlaySnapshotter(md, root / "snapshots", root / "mounts", namespaces)
        store = ImageStore(md, content, snapshots, client)
        layers = Layers(md, content, snapshots, root / "tmp")
        try:
            yield ImageHost(root, md, content, snapshots, client, store, layers, Assembler(md, content, snapshots))
        finally:
            await snapshots.recover()
            await namespaces.aclose()
            await client.close()


class Records(list[Progress]):
    """Collects progress; call it."""

    def __call__(self, record: Progress) -> None:
        """Append."""
        self.append(record)

    def phases(self, part: str) -> list[str]:
        """The phases of one part, without repetitions."""
        found = [record.phase.value for record in self if record.id == part]
        return [each for at, each in enumerate(found) if at == 0 or found[at - 1] != each]
