"""The engine: all use cases behind one face."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime

from shoal.platform import Platform
from shoald.build.agents import Agents
from shoald.build.lending import CacheLenders
from shoald.engine.build import BuildCases
from shoald.engine.containers import ContainerCases
from shoald.engine.control_ports import ControlUses, InsightUses
from shoald.engine.copying import CopyCases
from shoald.engine.events import EventLog
from shoald.engine.exec import ExecAttachment, ExecCases
from shoald.engine.images import ImageCases
from shoald.engine.logs import OutputCases
from shoald.engine.network_ports import NetworkUses
from shoald.engine.operations import Operations
from shoald.engine.ports import (
    AttachSession,
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
    Pushed,
)
from shoald.engine.system import SystemCases
from shoald.engine.volume_ports import BuildCacheUses, FileUses, VolumeUses
from shoald.model.build import BuildEstimate, BuildRequest, BuildSummary, Built
from shoald.model.container import Container, ContainerSpec, PullPolicy
from shoald.model.event import Event
from shoald.model.image import Image, IndexRecord, Loaded, Progress, RegistryCredentials
from shoald.model.path import PathStat


class LocalEngine:
    """See shoald.engine.ports.Engine."""

    def __init__(
        self,
        *,
        images: ImageCases,
        builds: BuildCases,
        agents: Agents,
        lenders: CacheLenders,
        build_cache: BuildCacheUses,
        containers: ContainerCases,
        control: ControlUses,
        insight: InsightUses,
        output: OutputCases,
        execs: ExecCases,
        copying: CopyCases,
        volumes: VolumeUses,
        files: FileUses,
        networks: NetworkUses,
        system: SystemCases,
        events: EventLog,
        operations: Operations,
    ) -> None:
        self._images = images
        self._builds = builds
        self._agents = agents
        self._lenders = lenders
        self._build_cache = build_cache
        self._containers = containers
        self._control = control
        self._insight = insight
        self._output = output
        self._execs = execs
        self._copying = copying
        self._volumes = volumes
        self._files = files
        self._networks = networks
        self._system = system
        self._events = events
        self._operations = operations

    # Images
    def pull(
        self, request_id: str, reference: str, platform: Platform | None, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Image]:
        """See Engine.pull."""
        return self._images.pull(request_id, reference, platform, credentials)

    def push(
        self, request_id: str, reference: str, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Pushed]:
        """See Engine.push."""
        return self._images.push(request_id, reference, credentials)

    def build(
        self, request_id: str, request: BuildRequest, contexts: AsyncIterable[tuple[str, AsyncIterable[bytes]]]
    ) -> AsyncIterator[BuildEvent | Built]:
        """See Engine.build."""
        return self._builds.build(request_id, request, contexts)

    def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Built]:
        """See Engine.follow_build."""
        return self._builds.follow_build(request_id, cursor, wait)

    def export_image(self, name: str) -> AsyncIterator[bytes]:
        """See Engine.export_image."""
        return self._copying.export_image(name)

    async def estimate_build(self, request: BuildRequest) -> BuildEstimate:
        """See Engine.estimate_build."""
        return await self._builds.estimate(request)

    def load_images(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Progress | Loaded]:
        """See Engine.load_images."""
        return self._images.load(chunks)

    def save_images(self, names: Sequence[str], docker: bool, expected_id: str = "") -> AsyncIterator[bytes]:
        """See Engine.save_images."""
        return self._images.save(names, docker, expected_id)

    def read_cache_blob(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """See Engine.read_cache_blob."""
        return self._builds.read_cache_blob(request_id, digest, offset)

    def list_builds(self) -> Sequence[BuildSummary]:
        """See Engine.list_builds."""
        return self._builds.list_builds()

    async def list_images(
        self,
        reference: str = "",
        labels: Sequence[tuple[str, str]] = (),
        dangling: bool = False,
        parts: bool = False,
    ) -> list[Image]:
        """See Engine.list_images."""
        return await self._images.list_images(reference, labels, dangling, parts)

    async def create_index(self, images: Sequence[str], tags: Sequence[str]) -> IndexRecord:
        """See Engine.create_index."""
        return await self._images.create_index(images, tags)

    def inspect_index(self, name: str) -> tuple[IndexRecord, bytes]:
        """See Engine.inspect_index."""
        return self._images.index_of(name)

    async def inspect_image(self, name: str) -> tuple[Image, bytes]:
        """See Engine.inspect_image."""
        return await self._images.inspect_image(name)

    def image_users(self, image_id: str) -> int:
        """See Engine.image_users."""
        return self._images.image_users(image_id)

    async def tag_image(self, source: str, target: str) -> None:
        """See Engine.tag_image."""
        await self._images.tag_image(source, target)

    async def remove_image(self, name: str, force: bool) -> tuple[list[str], list[str]]:
        """See Engine.remove_image."""
        return await self._images.remove_image(name, force)

    async def prune_images(
        self, labels: Sequence[tuple[str, str]], until: datetime | None, unused: bool
    ) -> tuple[list[str], list[str], int]:
        """See Engine.prune_images."""
        return await self._images.prune_images(labels, until, unused)

    # Containers
    async def run(
        self,
        request_id: str,
        spec: ContainerSpec,
        pull_policy: PullPolicy,
        credentials: RegistryCredentials | None,
        keep_on_failure: bool,
    ) -> tuple[Container, list[str]]:
        """See Engine.run."""
        return await self._containers.run(request_id, spec, pull_policy, credentials, keep_on_failure)

    async def start(self, name: str, request_id: str = "") -> Container:
        """See Engine.start."""
        return await self._containers.start(name, request_id)

    async def create(
        self, request_id: str, spec: ContainerSpec, pull_policy: PullPolicy, credentials: RegistryCredentials | None
    ) -> tuple[Container, list[str]]:
        """See Engine.create."""
        return await self._containers.create(request_id, spec, pull_policy, credentials)

    async def restart(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """See Engine.restart."""
        return await self._containers.restart(name, timeout_s, signal, request_id)

    @property
    def control(self) -> ControlUses:
        """See Engine.control."""
        return self._control

    @property
    def insight(self) -> InsightUses:
        """See Engine.insight."""
        return self._insight

    async def stop(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """See Engine.stop."""
        return await self._containers.stop(name, timeout_s, signal, request_id)

    async def kill(self, name: str, signal: str, request_id: str = "") -> None:
        """See Engine.kill."""
        await self._containers.kill(name, signal, request_id)

    async def wait(self, name: str, condition: str) -> ExitStatus:
        """See Engine.wait."""
        return await self._containers.wait(name, condition)

    async def remove(self, name: str, force: bool, volumes: bool, request_id: str = "") -> str:
        """See Engine.remove."""
        return await self._containers.remove(name, force, volumes, request_id)

    async def list_containers(self, wanted: ContainerFilter) -> list[Container]:
        """See Engine.list_containers."""
        return await self._containers.list_containers(wanted)

    async def inspect_container(self, name: str) -> ContainerDetails:
        """See Engine.inspect_container."""
        return await self._containers.inspect_container(name)

    def logs(self, name: str, query: LogQuery) -> AsyncIterator[LogBatch]:
        """See Engine.logs."""
        return self._output.logs(name, query)

    async def attach(
        self, name: str, cursor: str, stdout: bool, stderr: bool, stdin: bool, raw: bool = False
    ) -> AttachSession:
        """See Engine.attach."""
        return await self._output.attach(name, cursor, stdout, stderr, stdin, raw)

    # Exec
    async def exec(self, request_id: str, order: ExecOrder) -> ExecStarted:
        """See Engine.exec."""
        return await self._execs.exec(request_id, order)

    def exec_container(self, exec_id: str) -> str:
        """See Engine.exec_container."""
        return self._execs.container_of(exec_id)

    async def exec_attach(self, exec_id: str, cursor: str, confirms: bool) -> ExecAttachment:
        """See Engine.exec_attach."""
        return await self._execs.attach(exec_id, cursor, confirms=confirms)

    async def exec_kill(self, exec_id: str, signal: str) -> None:
        """See Engine.exec_kill."""
        await self._execs.kill(exec_id, signal)

    # Files of containers
    async def stat_path(self, name: str, path: str) -> PathStat:
        """See Engine.stat_path."""
        return await self._copying.stat_path(name, path)

    def copy_out(self, name: str, path: str, follow: bool) -> AsyncIterator[PathStat | bytes]:
        """See Engine.copy_out."""
        return self._copying.copy_out(name, path, follow)

    async def copy_in(
        self, name: str, path: str, chunks: AsyncIterable[bytes], keep_owner: bool, guard_types: bool
    ) -> None:
        """See Engine.copy_in."""
        await self._copying.copy_in(name, path, chunks, keep_owner, guard_types)

    def export_container(self, name: str) -> AsyncIterator[bytes]:
        """See Engine.export_container."""
        return self._copying.export_container(name)

    @property
    def agents(self) -> Agents:
        """See Engine.agents."""
        return self._agents

    @property
    def lenders(self) -> CacheLenders:
        """See Engine.lenders."""
        return self._lenders

    @property
    def build_cache(self) -> BuildCacheUses:
        """See Engine.build_cache."""
        return self._build_cache

    # Volumes and files of clients
    @property
    def volumes(self) -> VolumeUses:
        """See Engine.volumes."""
        return self._volumes

    @property
    def files(self) -> FileUses:
        """See Engine.files."""
        return self._files

    # Networks
    @property
    def networks(self) -> NetworkUses:
        """See Engine.networks."""
        return self._networks

    # System
    async def info(self) -> HostInfo:
        """See Engine.info."""
        return await self._system.info()

    async def version(self) -> HostVersion:
        """See Engine.version."""
        return await self._system.version()

    def events(self, wanted: EventFilter) -> AsyncIterator[Event]:
        """See Engine.events."""
        return self._events.follow(wanted)

    async def cancel(self, request_id: str) -> bool:
        """See Engine.cancel."""
        return await self._operations.cancel(request_id)
