"""Groups of the fake engine's calls: volumes, networks, files, the build cache, control and insight."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from shoal.errors import NotFound
from shoald.engine.volume_ports import VolumeDetails, VolumeFilter
from shoald.model.buildcache import CacheKind, CachePrune, CachePruned, CacheRecord
from shoald.model.change import ContainerChange
from shoald.model.container import Container, Membership
from shoald.model.file import TreeEntry
from shoald.model.image import Image
from shoald.model.insight import Change, ChangeKind, ProcessTable, StatsSample
from shoald.model.network import Member, Network, NetworkRequest
from shoald.model.snapshot import Volume
from shoald.network.ports import Endpoint
from tests.support.fake_records import BRIDGE, CONTAINER, IMAGE, NETWORK, NOW

if TYPE_CHECKING:
    from tests.support.fake_engine import FakeEngine


class FakeVolumes:
    """The engine's volumes: `data`, and `gone`, which is gone when it is looked at."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def list(self, wanted: VolumeFilter) -> Sequence[Volume]:
        self._engine._called("list_volumes", wanted)
        return [Volume("data", NOW, labels={"tier": "db"}, options={"type": "tmpfs"}), Volume("gone", NOW)]

    def path(self, name: str) -> str:
        if name == "gone":
            raise NotFound("no volume gone", reason="VOLUME_NOT_FOUND")
        return f"/var/lib/shoal/volumes/{name}/data"

    async def create(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> Volume:
        self._engine._called("create_volume", name, labels, options)
        return Volume(name or "random", NOW, not name, labels, options)

    async def inspect(self, name: str) -> VolumeDetails:
        self._engine._called("inspect_volume", name)
        return VolumeDetails(Volume(name, NOW), self.path(name), (CONTAINER.id,), 4096)

    async def prune(self, everything: bool, labels: tuple[tuple[str, str], ...]) -> tuple[Sequence[str], int]:
        self._engine._called("prune_volumes", everything, labels)
        return ["old"], 4096

    async def remove(self, name: str) -> None:
        self._engine._called("remove_volume", name)

    async def export(self, name: str) -> AsyncIterator[bytes]:
        self._engine._called("export_volume", name)
        yield b"one"
        yield b"two"

    async def load(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        self._engine._called("import_volume", name)
        async for chunk in chunks:
            self._engine.context += chunk


class FakeBuildCache:
    """One layer and one cache mount."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def records(self) -> Sequence[CacheRecord]:
        self._engine._called("list_build_cache")
        return [
            CacheRecord("a" * 64, CacheKind.LAYER, "RUN make", 5, NOW, NOW, 2, shared=True),
            CacheRecord("b" * 64, CacheKind.MOUNT, "cache mount /c", 7, NOW, NOW, in_use=True),
        ]

    async def prune(self, wanted: CachePrune) -> CachePruned:
        self._engine._called("prune_build_cache", wanted)
        return CachePruned(("a" * 64,), 5)


class FakeNetworks:
    """The engine's networks: `bridge` and `net`, where CONTAINER is."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def list(self, labels: tuple[tuple[str, str], ...] = (), name: str = "") -> Sequence[Network]:
        self._engine._called("list_networks", labels, name)
        return [BRIDGE, NETWORK]

    def inspect(self, name: str) -> tuple[Network, Sequence[Member]]:
        self._engine._called("inspect_network", name)
        return NETWORK, [Member(CONTAINER, Membership(NETWORK.id), "10.209.128.2", "fd00::2", "02:42:0a:d1:80:02")]

    def names(self) -> Mapping[str, Sequence[str]]:
        return {CONTAINER.id: ["net"]}

    def endpoints(self, container_id: str) -> Sequence[tuple[Endpoint, Membership]]:
        endpoint = Endpoint("10.209.128.2", 24, "10.209.128.1", "02:42:0a:d1:80:02", network="net")
        return [(endpoint, Membership(NETWORK.id, aliases=("db",)))]

    async def create(self, request_id: str, request: NetworkRequest) -> tuple[Network, Sequence[str]]:
        self._engine._called("create_network", request_id, request)
        return NETWORK, ["a warning"]

    async def remove(self, name: str) -> None:
        self._engine._called("remove_network", name)

    async def prune(self, labels: tuple[tuple[str, str], ...] = ()) -> Sequence[str]:
        self._engine._called("prune_networks", labels)
        return ["net"]

    async def connect(self, container: str, membership: Membership) -> None:
        self._engine._called("connect", container, membership)

    async def disconnect(self, container: str, network: str, force: bool) -> None:
        self._engine._called("disconnect", container, network, force)


class FakeControl:
    """Remembers what it was asked."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def pause(self, name: str, request_id: str = "") -> None:
        self._engine._called("pause", name, request_id)

    async def unpause(self, name: str, request_id: str = "") -> None:
        self._engine._called("unpause", name, request_id)

    async def rename(self, name: str, new_name: str, request_id: str = "") -> None:
        self._engine._called("rename", name, new_name, request_id)

    async def update(self, name: str, change: ContainerChange, request_id: str = "") -> tuple[Container, list[str]]:
        self._engine._called("update", name, change, request_id)
        return CONTAINER, ["a warning"]

    async def prune(self, labels: Sequence[tuple[str, str]], until: datetime | None) -> tuple[list[str], int]:
        self._engine._called("prune", labels, until)
        return [CONTAINER.id], 4096

    async def sizes(self, ids: Sequence[str]) -> Mapping[str, int]:
        self._engine._called("sizes", tuple(ids))
        return dict.fromkeys(ids, 4096)


class FakeInsight:
    """Two samples, one process, one changed file."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def top(self, name: str, arguments: Sequence[str]) -> ProcessTable:
        self._engine._called("top", name, arguments)
        return ProcessTable(("PID", "CMD"), (("4242", "sleep 60"),))

    async def stats(
        self, names: Sequence[str], one_shot: bool, interval_s: float = 1.0
    ) -> AsyncIterator[list[StatsSample]]:
        self._engine._called("stats", names, one_shot, interval_s)
        yield [StatsSample(CONTAINER.id, CONTAINER.name, NOW, cpu_ns=5, cpu_fraction=0.5, memory_bytes=4096)]
        if not one_shot:
            await self._engine._maybe_hang()
            yield []

    async def changes(self, name: str) -> AsyncIterator[list[Change]]:
        self._engine._called("changes", name)
        yield [Change(ChangeKind.ADDED, "/new"), Change(ChangeKind.DELETED, "/old")]

    async def commit(
        self,
        request_id: str,
        name: str,
        reference: str,
        author: str,
        message: str,
        changes: Sequence[str],
        pause: bool,
    ) -> Image:
        self._engine._called("commit", request_id, name, reference, author, message, changes, pause)
        return IMAGE


class FakeFiles:
    """The engine's files: it lacks every blob, and remembers what comes in `blobs`."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def missing(self, digests: Sequence[str]) -> Sequence[str]:
        self._engine._called("missing", digests)
        return digests

    async def put(self, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        self._engine._called("put", digest, size)
        self._engine.blobs[digest] = b"".join([chunk async for chunk in chunks])

    async def put_all(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        self._engine._called("put_all", tuple(blobs))
        self._engine.blobs.update(blobs)

    async def prepare_context(self, digest: str) -> Sequence[str]:
        self._engine._called("prepare_context", digest)
        return self._engine.lacking

    async def assemble(self, entries: Sequence[TreeEntry]) -> str:
        self._engine._called("assemble", tuple(entries))
        return "sha256:" + "4" * 64

    async def replace(self, name: str, target: str, digest: str) -> None:
        self._engine._called("replace_files", name, target, digest)

    async def put_secret(self, value: bytes, mode: int, container: str, target: str) -> str:
        self._engine._called("put_secret", value, mode, container, target)
        return "" if container else "handle"
