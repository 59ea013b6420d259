"""An `Engine` in memory for the tests of the API: it does what its fields say and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from shoal.errors import NotFound
from shoal.platform import Platform
from shoald.build.agents import Agents
from shoald.config import Config
from shoald.engine.ports import (
    BuildEvent,
    ContainerDetails,
    ContainerFilter,
    EventFilter,
    ExecOrder,
    ExecOutput,
    ExecStarted,
    ExitStatus,
    HostInfo,
    HostVersion,
    LogBatch,
    LogQuery,
    LogRecord,
    MountPoint,
    Pushed,
)
from shoald.engine.volume_ports import VolumeDetails, VolumeFilter
from shoald.model.build import BuildRequest, BuildState, BuildSummary, BuildWarning, StepFinished, StepLog, StepStarted
from shoald.model.buildcache import CacheKind, CachePrune, CachePruned, CacheRecord
from shoald.model.change import ContainerChange
from shoald.model.container import Container, ContainerSpec, ContainerState, Membership, Process, PullPolicy
from shoald.model.event import Event
from shoald.model.file import TreeEntry
from shoald.model.image import Image, Progress, ProgressPhase, RegistryCredentials
from shoald.model.insight import Change, ChangeKind, ProcessTable, StatsSample
from shoald.model.metrics import EngineMetrics
from shoald.model.network import Member, Network, NetworkRequest
from shoald.model.path import PathStat
from shoald.model.snapshot import Volume
from shoald.network.ports import Endpoint
from shoald.oci.config import parse_config

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RAW_CONFIG = (
    b'{"architecture":"amd64","os":"linux","author":"me","created":"2026-01-02T03:04:05Z",'
    b'"config":{"Cmd":["sh"],"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Labels":{"k":"v"}},'
    b'"rootfs":{"type":"layers","diff_ids":["sha256:' + b"a" * 64 + b'"]},'
    b'"history":[{"created":"2026-01-02T03:04:05Z","created_by":"ADD x /"},{"created":"nonsense","empty_layer":true}]}'
)
IMAGE = Image(
    id="sha256:" + "1" * 64,
    manifest_digest="sha256:" + "2" * 64,
    manifest_media_type="application/vnd.oci.image.manifest.v1+json",
    config=parse_config(RAW_CONFIG),
    created_at=NOW,
    size_bytes=4096,
    chain_id="sha256:" + "a" * 64,
    tags=("docker.io/library/busybox:latest",),
)
CONTAINER = Container(
    id="c" * 64,
    name="web",
    request_id="r1",
    spec=ContainerSpec(image="busybox", name="web", labels={"tier": "front"}),
    image_id=IMAGE.id,
    process=Process(("sleep", "60"), ("A=b",), "/", ""),
    state=ContainerState.RUNNING,
    created_at=NOW,
    userns_base=0x70000000,
    snapshot_id="s1",
    hostname="web",
    stop_signal=15,
    stop_timeout_s=10.0,
    started_at=NOW,
    pid=4242,
    ip_address="10.88.64.2",
)


PATH_STAT = PathStat("passwd", 12, 0o100644, 1_500_000_001, "", 0, 0)


BRIDGE = Network("bridge", "bridge", NOW, "shoal0", ("10.209.0.0/20",), ("10.209.0.1",))
NETWORK = Network(
    "d" * 64,
    "net",
    NOW,
    "shoal0-dddddddd",
    ("10.209.128.0/24", "fd00::/64"),
    ("10.209.128.1", "fd00::1"),
    internal=True,
    labels={"tier": "db"},
    options={"mtu": "1400"},
)


class FakeAttachSession:
    """Echoes standard input; the container exits with code 7 at the end of input, or when `exit_now` is set."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._queue: asyncio.Queue[LogBatch | ExitStatus] = asyncio.Queue()
        self.closed = False
        self.sizes: list[tuple[int, int]] = []
        engine.sessions.append(self)

    async def output(self) -> AsyncIterator[LogBatch | ExitStatus]:
        while True:
            item = await self._queue.get()
            yield item

    def emit(self, data: bytes, cursor: str = "1") -> None:
        self._queue.put_nowait(LogBatch((LogRecord(1_000_000_001, False, data, False),), cursor))

    def exit(self, code: int) -> None:
        self._queue.put_nowait(ExitStatus(code))

    async def write_stdin(self, data: bytes) -> None:
        if self._engine.stdin_error is not None:
            raise self._engine.stdin_error
        self.emit(data)

    async def close_stdin(self) -> None:
        self.exit(7)

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


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

    async def assemble(self, entries: Sequence[TreeEntry]) -> str:
        self._engine._called("assemble", tuple(entries))
        return "sha256:" + "4" * 64

    async def replace(self, name: str, target: str, digest: str) -> None:
        self._engine._called("replace_files", name, target, digest)

    async def put_secret(self, value: bytes, mode: int, container: str, target: str) -> str:
        self._engine._called("put_secret", value, mode, container, target)
        return "" if container else "handle"


class FakeExecSession:
    """Echoes standard input on standard error; the process exits with code 9 at the end of input."""

    def __init__(self, engine: FakeEngine) -> None:
        self._queue: asyncio.Queue[ExecOutput | ExitStatus] = asyncio.Queue()
        self.closed: list[bool] = []
        self.sizes: list[tuple[int, int]] = []
        self.taken = 0
        self.acknowledged: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        engine.execs.append(self)

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        while True:
            yield await self._queue.get()

    @property
    def stdin_taken(self) -> int:
        return self.taken

    def received(self, cursor: str) -> None:
        self.acknowledged.append(cursor)

    async def write_stdin(self, data: bytes, offset: int) -> None:
        await self.reads.wait()
        self.taken = offset + len(data)
        self._queue.put_nowait(ExecOutput(True, data, "5"))

    async def close_stdin(self) -> None:
        self._queue.put_nowait(ExitStatus(9))

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    async def close(self, *, detached: bool = False) -> None:
        """`closed` says whether on purpose."""
        await asyncio.sleep(0)
        self.closed.append(detached)


@dataclass
class FakeEngine:
    """`error`, when set, is raised by everything. `calls` holds (name, arguments) of what was asked."""

    error: BaseException | None = None
    stdin_error: Exception | None = None
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    sessions: list[FakeAttachSession] = field(default_factory=list)
    execs: list[FakeExecSession] = field(default_factory=list)
    context: bytes = b""
    contexts: list[str] = field(default_factory=list)
    lent_agents: Agents = field(default_factory=Agents)
    context_complete: bool = False
    context_error: BaseException | None = None
    hang: bool = False
    open_streams: int = 0
    block: asyncio.Event = field(default_factory=asyncio.Event)
    images: list[Image] = field(default_factory=lambda: [IMAGE])
    containers: list[Container] = field(default_factory=lambda: [CONTAINER])
    log_lines: int = 3
    log_line: bytes = b"line"
    lines_given: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)

    def _called(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.error is not None:
            raise self.error

    async def _maybe_hang(self) -> None:
        if self.hang:
            self.open_streams += 1
            try:
                await self.block.wait()
            finally:
                self.open_streams -= 1

    def asked(self, name: str) -> tuple[Any, ...]:
        """Arguments of the last call of that name."""
        return [arguments for each, arguments in self.calls if each == name][-1]

    # Images
    async def pull(
        self, request_id: str, reference: str, platform: Platform | None, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Image]:
        self._called("pull", request_id, reference, platform, credentials)
        yield Progress("sha256:" + "3" * 64, ProgressPhase.DOWNLOADING, 1, 2)
        await self._maybe_hang()
        yield Progress("sha256:" + "3" * 64, ProgressPhase.DONE, 2, 2)
        yield IMAGE

    async def push(
        self, request_id: str, reference: str, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Pushed]:
        self._called("push", request_id, reference, credentials)
        yield Progress("sha256:" + "3" * 64, ProgressPhase.EXISTS)
        yield Pushed("docker.io/library/busybox:latest", IMAGE.manifest_digest, 512)

    async def build(
        self, request_id: str, request: BuildRequest, contexts: AsyncIterable[tuple[str, AsyncIterable[bytes]]]
    ) -> AsyncIterator[BuildEvent | Image]:
        self._called("build", request_id, request)
        try:
            async for name, chunks in contexts:
                self.contexts.append(name)
                async for chunk in chunks:
                    self.context += chunk
        except BaseException as error:
            self.context_error = error
            raise
        self.context_complete = True
        async for item in self.follow_build(request_id, 0, True):
            yield item

    def list_builds(self) -> Sequence[BuildSummary]:
        self._called("list_builds")
        return [
            BuildSummary("b1", BuildState.SUCCEEDED, "web", NOW, NOW, IMAGE.id),
            BuildSummary("b2", BuildState.RUNNING, "Dockerfile", NOW),
        ]

    async def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Image]:
        self._called("follow_build", request_id, cursor)
        bodies = (
            StepStarted("s1", "0", 1, 2, "RUN x", 2, 3),
            StepLog("s1", True, b"line\n"),
            Progress("sha256:" + "3" * 64, ProgressPhase.WAITING),
            BuildWarning("JSONArgsRecommended", "use JSON", 4, 4),
            StepFinished("s1", True),
        )
        for at, body in enumerate(bodies, 1):
            if at > cursor:
                yield BuildEvent(at, NOW, body)
        yield IMAGE

    async def list_images(
        self, reference: str = "", labels: Sequence[tuple[str, str]] = (), dangling: bool = False
    ) -> list[Image]:
        self._called("list_images", reference, labels, dangling)
        return self.images

    async def inspect_image(self, name: str) -> tuple[Image, bytes]:
        self._called("inspect_image", name)
        return IMAGE, RAW_CONFIG

    def image_users(self, image_id: str) -> int:
        return 2

    async def tag_image(self, source: str, target: str) -> None:
        self._called("tag_image", source, target)

    async def remove_image(self, name: str, force: bool) -> tuple[list[str], list[str]]:
        self._called("remove_image", name, force)
        return ["docker.io/library/busybox:latest"], [IMAGE.id]

    # Containers
    async def run(
        self,
        request_id: str,
        spec: ContainerSpec,
        pull_policy: PullPolicy,
        credentials: RegistryCredentials | None,
        keep_on_failure: bool,
    ) -> tuple[Container, list[str]]:
        self._called("run", request_id, spec, pull_policy, credentials, keep_on_failure)
        await self._maybe_hang()
        return replace(CONTAINER, spec=spec, ports=spec.ports, request_id=request_id), ["a warning"]

    async def start(self, name: str, request_id: str = "") -> Container:
        self._called("start", name, request_id)
        return CONTAINER

    async def create(
        self, request_id: str, spec: ContainerSpec, pull_policy: PullPolicy, credentials: RegistryCredentials | None
    ) -> tuple[Container, list[str]]:
        self._called("create", request_id, spec, pull_policy, credentials)
        return replace(CONTAINER, spec=spec, state=ContainerState.CREATED, request_id=request_id), ["a warning"]

    async def restart(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        self._called("restart", name, timeout_s, signal, request_id)
        return CONTAINER

    @property
    def control(self) -> FakeControl:
        return FakeControl(self)

    @property
    def insight(self) -> FakeInsight:
        return FakeInsight(self)

    async def stop(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        self._called("stop", name, timeout_s, signal, request_id)
        return replace(CONTAINER, state=ContainerState.EXITED, exit_code=0, finished_at=NOW, pid=0)

    async def kill(self, name: str, signal: str, request_id: str = "") -> None:
        self._called("kill", name, signal, request_id)

    async def wait(self, name: str, condition: str) -> ExitStatus:
        self._called("wait", name, condition)
        await self._maybe_hang()
        return ExitStatus(137, True, "killed")

    async def remove(self, name: str, force: bool, volumes: bool, request_id: str = "") -> str:
        self._called("remove", name, force, volumes, request_id)
        return CONTAINER.id

    async def list_containers(self, wanted: ContainerFilter) -> list[Container]:
        self._called("list_containers", wanted)
        return self.containers

    async def inspect_container(self, name: str) -> ContainerDetails:
        self._called("inspect_container", name)
        mounts = (MountPoint("volume", "data", "/var/lib/shoal/volumes/data", "/data", True),)
        return ContainerDetails(CONTAINER, "/usr/bin/crun", mounts, "/var/lib/shoal/log", 65536)

    async def logs(self, name: str, query: LogQuery) -> AsyncIterator[LogBatch]:
        self._called("logs", name, query)
        for number in range(self.log_lines):
            record = LogRecord(
                1_700_000_000_123_456_789 + number, number % 2 == 1, b"%b %d\n" % (self.log_line, number), False
            )
            self.lines_given += 1
            yield LogBatch((record,), str(number))
        if query.follow:
            await self._maybe_hang()

    async def attach(
        self, name: str, cursor: str, stdout: bool, stderr: bool, stdin: bool, raw: bool = False
    ) -> FakeAttachSession:
        self._called("attach", name, cursor, stdout, stderr, stdin)
        return FakeAttachSession(self)

    # Exec and files of containers
    async def exec(self, request_id: str, order: ExecOrder) -> ExecStarted:
        self._called("exec", request_id, order)
        return ExecStarted("e" * 64, 4711)

    def exec_container(self, exec_id: str) -> str:
        return CONTAINER.id

    async def exec_attach(self, exec_id: str, cursor: str, confirms: bool) -> FakeExecSession:
        self._called("exec_attach", exec_id, cursor, confirms)
        return FakeExecSession(self)

    async def exec_kill(self, exec_id: str, signal: str) -> None:
        self._called("exec_kill", exec_id, signal)

    async def stat_path(self, name: str, path: str) -> PathStat:
        self._called("stat_path", name, path)
        return PATH_STAT

    async def copy_out(self, name: str, path: str, follow: bool) -> AsyncIterator[PathStat | bytes]:
        self._called("copy_out", name, path, follow)
        yield PATH_STAT
        for chunk in (b"one", b"two"):
            yield chunk

    async def copy_in(
        self, name: str, path: str, chunks: AsyncIterable[bytes], keep_owner: bool, guard_types: bool
    ) -> None:
        self._called("copy_in", name, path, keep_owner, guard_types)
        try:
            async for chunk in chunks:
                self.context += chunk
            self.context_complete = True
        except BaseException as error:
            self.context_error = error
            raise

    async def export_container(self, name: str) -> AsyncIterator[bytes]:
        self._called("export_container", name)
        yield b"archive"

    @property
    def agents(self) -> Agents:
        return self.lent_agents

    @property
    def build_cache(self) -> FakeBuildCache:
        return FakeBuildCache(self)

    # Volumes and files of clients
    @property
    def volumes(self) -> FakeVolumes:
        return FakeVolumes(self)

    @property
    def files(self) -> FakeFiles:
        return FakeFiles(self)

    @property
    def networks(self) -> FakeNetworks:
        return FakeNetworks(self)

    # System
    async def info(self) -> HostInfo:
        self._called("info")
        return HostInfo(
            host_id="h1",
            hostname="host",
            operating_system="Debian",
            kernel_version="6.18",
            platform=Platform("linux", "amd64"),
            cpus=2,
            memory_bytes=1 << 30,
            data_root="/var/lib/shoal",
            cgroup_mode="hybrid",
            runtime="crun",
            containers_running=1,
            containers_stopped=0,
            images=1,
            disk_free_bytes=1,
            disk_total_bytes=2,
            warnings=("no seccomp",),
            version="0.1.0",
        )

    async def version(self) -> HostVersion:
        self._called("version")
        return HostVersion("0.1.0", "3.11", "6.18", "crun 1.8", "conmon 2.1", Platform("linux", "amd64"))

    async def events(self, wanted: EventFilter) -> AsyncIterator[Event]:
        self._called("events", wanted)
        for cursor in (1, 2):
            yield Event("container", "start", CONTAINER.id, NOW, {"name": "web"}, cursor)
        await self._maybe_hang()

    async def cancel(self, request_id: str) -> bool:
        self._called("cancel", request_id)
        return True


@asynccontextmanager
async def fake_engine(config: Config, metrics: EngineMetrics) -> AsyncIterator[FakeEngine]:
    """For `shoald.daemon.serve`."""
    yield FakeEngine()
