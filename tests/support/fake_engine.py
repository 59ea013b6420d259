"""An `Engine` in memory for the tests of the API: it does what its fields say and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from shoal.platform import Platform
from shoald.build.agents import Agents
from shoald.build.lending import CacheLenders
from shoald.config import Config
from shoald.engine.ports import (
    BuildEvent,
    ContainerDetails,
    ContainerFilter,
    EventFilter,
    ExecOrder,
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
from shoald.model.build import (
    BuildEstimate,
    BuildRequest,
    BuildState,
    BuildSummary,
    BuildWarning,
    Built,
    StepFinished,
    StepLog,
    StepStarted,
)
from shoald.model.container import Container, ContainerSpec, ContainerState, PullPolicy
from shoald.model.event import Event
from shoald.model.image import Image, IndexRecord, Loaded, Progress, ProgressPhase, RegistryCredentials
from shoald.model.metrics import EngineMetrics
from shoald.model.path import PathStat
from tests.support.fake_records import BRIDGE as BRIDGE
from tests.support.fake_records import CONTAINER as CONTAINER
from tests.support.fake_records import IMAGE as IMAGE
from tests.support.fake_records import INDEX as INDEX
from tests.support.fake_records import NETWORK as NETWORK
from tests.support.fake_records import NOW as NOW
from tests.support.fake_records import PATH_STAT as PATH_STAT
from tests.support.fake_records import RAW_CONFIG as RAW_CONFIG
from tests.support.fake_sessions import FakeAttachSession as FakeAttachSession
from tests.support.fake_sessions import FakeExecSession as FakeExecSession
from tests.support.fake_uses import FakeBuildCache as FakeBuildCache
from tests.support.fake_uses import FakeControl as FakeControl
from tests.support.fake_uses import FakeFiles as FakeFiles
from tests.support.fake_uses import FakeInsight as FakeInsight
from tests.support.fake_uses import FakeNetworks as FakeNetworks
from tests.support.fake_uses import FakeVolumes as FakeVolumes


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
    lenders: CacheLenders = field(default_factory=CacheLenders)
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
    lacking: list[str] = field(default_factory=list)
    """What a context lacks."""

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
    ) -> AsyncIterator[BuildEvent | Built]:
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

    async def export_image(self, name: str) -> AsyncIterator[bytes]:
        self._called("export_image", name)
        yield b"archive"

    async def load_images(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Progress | Loaded]:
        self._called("load_images", b"".join([chunk async for chunk in chunks]))
        yield Progress("sha256:1", ProgressPhase.DOWNLOADING, 1, 2)
        yield Loaded(IMAGE, ("web:1",))

    async def save_images(self, names: Sequence[str], docker: bool, expected_id: str = "") -> AsyncIterator[bytes]:
        self._called("save_images", tuple(names), docker)
        yield b"archive"

    async def estimate_build(self, request: BuildRequest) -> BuildEstimate:
        self._called("estimate_build", request)
        return BuildEstimate(3, True, Platform("linux", "amd64"))

    async def read_cache_blob(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        self._called("read_cache_blob", request_id, digest, offset)
        yield b"blob"

    def list_builds(self) -> Sequence[BuildSummary]:
        self._called("list_builds")
        return [
            BuildSummary("b1", BuildState.SUCCEEDED, "web", NOW, NOW, IMAGE.id),
            BuildSummary("b2", BuildState.RUNNING, "", NOW),
        ]

    async def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Built]:
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
        yield Built(IMAGE, INDEX)

    async def list_images(
        self,
        reference: str = "",
        labels: Sequence[tuple[str, str]] = (),
        dangling: bool = False,
        parts: bool = False,
    ) -> list[Image]:
        self._called("list_images", reference, labels, dangling, parts)
        return self.images

    async def create_index(self, images: Sequence[str], tags: Sequence[str]) -> IndexRecord:
        self._called("create_index", tuple(images), tuple(tags))
        return INDEX

    def inspect_index(self, name: str) -> tuple[IndexRecord, bytes]:
        self._called("inspect_index", name)
        return INDEX, b"{}"

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

    async def prune_images(
        self, labels: Sequence[tuple[str, str]], until: datetime | None, unused: bool
    ) -> tuple[list[str], list[str], int]:
        self._called("prune_images", tuple(labels), until, unused)
        return [], [IMAGE.id], 7

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
