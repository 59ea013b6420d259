"""The daemon's use cases as the API calls them. Implemented by shoald.engine; the API's tests use a fake.

All raise classes of shoal.errors. Nothing here knows of gRPC. Work outlives its caller: cancelling one of these
coroutines or iterators never stops a pull, push, build or run that has begun; only cancel() does.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from shoal.platform import Platform
from shoald.build.agents import Agents
from shoald.build.lending import CacheLenders
from shoald.engine.control_ports import ControlUses, InsightUses
from shoald.engine.network_ports import NetworkUses
from shoald.engine.volume_ports import BuildCacheUses, FileUses, VolumeUses
from shoald.model.build import (
    BuildEstimate,
    BuildRequest,
    BuildSummary,
    BuildWarning,
    Built,
    CacheReady,
    StepFinished,
    StepLog,
    StepStarted,
)
from shoald.model.container import Container, ContainerSpec, ContainerState, HealthStatus, PullPolicy
from shoald.model.event import Event
from shoald.model.host import HostInfo as HostInfo
from shoald.model.host import HostVersion as HostVersion
from shoald.model.image import Image, IndexRecord, Loaded, Progress, RegistryCredentials
from shoald.model.log import Grep as Grep
from shoald.model.log import LogBatch as LogBatch
from shoald.model.log import LogQuery as LogQuery
from shoald.model.log import LogRecord as LogRecord
from shoald.model.path import PathStat as PathStat
from shoald.runtime.execbuffer import ExecOutput as ExecOutput
from shoald.runtime.execspec import ExecRequest as ExecRequest

BuildEventBody = StepStarted | StepLog | StepFinished | BuildWarning | Progress | CacheReady


class BuildEvent(Struct, frozen=True):
    """An event of a build with its place in the stream."""

    cursor: int
    time: datetime
    body: BuildEventBody


class Pushed(Struct, frozen=True):
    """Result of a push."""

    reference: str
    digest: str
    size_bytes: int


class ContainerFilter(Struct, frozen=True):
    """See shoal.v1.ContainerServiceListRequest."""

    all: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    states: tuple[ContainerState, ...] = ()
    name: str = ""
    image: str = ""
    limit: int = 0
    health: HealthStatus | None = None
    network: str = ""
    volume: str = ""


class EventFilter(Struct, frozen=True):
    """See shoal.v1.SystemServiceEventsRequest."""

    cursor: int = 0
    since: datetime | None = None
    until: datetime | None = None
    types: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


class ExitStatus(Struct, frozen=True):
    """How a container ended."""

    exit_code: int
    oom_killed: bool = False
    error: str = ""


class MountPoint(Struct, frozen=True):
    """A mount of a container and its place on the host."""

    kind: str
    name: str
    source: str
    target: str
    read_only: bool


class ContainerDetails(Struct, frozen=True):
    """For inspect."""

    container: Container
    runtime: str
    mounts: tuple[MountPoint, ...]
    log_path: str
    userns_size: int


class AttachSession(Protocol):
    """One attached client."""

    def output(self) -> AsyncIterator[LogBatch | ExitStatus]:
        """Batches of output; an ExitStatus comes last, when all output was given."""

    async def write_stdin(self, data: bytes) -> None:
        """With back pressure."""

    async def close_stdin(self) -> None:
        """End of input."""

    async def resize(self, rows: int, columns: int) -> None:
        """Size of the terminal."""

    async def close(self) -> None:
        """Detach."""


class ExecOrder(Struct, frozen=True):
    """What a client asks exec for."""

    container: str
    request: ExecRequest
    kill_on_disconnect: bool = True


class ExecStarted(Struct, frozen=True):
    """A process that exec has started."""

    exec_id: str
    pid: int


class ExecAttachSession(Protocol):
    """One client that is attached to the process of an exec."""

    def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """Output; an ExitStatus comes last."""

    def received(self, cursor: str) -> None:
        """The client has all output up to here: what a client calls that confirms."""

    @property
    def stdin_taken(self) -> int:
        """Bytes of input that the process was given, by all clients."""

    async def write_stdin(self, data: bytes, offset: int) -> None:
        """With back pressure; `offset`: the data's place in all of the input. What was given already is skipped."""

    async def close_stdin(self) -> None:
        """End of input."""

    async def resize(self, rows: int, columns: int) -> None:
        """Size of the terminal."""

    async def close(self, *, detached: bool = False) -> None:
        """The client is gone; `detached`: because it wanted to."""


class Engine(Protocol):
    """Everything that a host can do."""

    # Images
    def pull(
        self, request_id: str, reference: str, platform: Platform | None, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Image]:
        """Progress records; the Image last."""

    def push(
        self, request_id: str, reference: str, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Progress | Pushed]:
        """Progress records; Pushed last."""

    def build(
        self, request_id: str, request: BuildRequest, contexts: AsyncIterable[tuple[str, AsyncIterable[bytes]]]
    ) -> AsyncIterator[BuildEvent | Built]:
        """`contexts` are names and tar streams, the main one ("") first, read to their end before the build starts; the
        result comes last."""

    def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Built]:
        """Events after `cursor`; the result last. Not `wait`: only what there is now."""

    def export_image(self, name: str) -> AsyncIterator[bytes]:
        """The files of an image as a tar in chunks."""

    async def estimate_build(self, request: BuildRequest) -> BuildEstimate:
        """What of a build is here already; nothing is made, or fetched."""

    def load_images(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Progress | Loaded]:
        """The images of an archive (an OCI image layout or what docker writes, perhaps compressed), at the end."""

    def save_images(self, names: Sequence[str], docker: bool, expected_id: str = "") -> AsyncIterator[bytes]:
        """Images as one archive in chunks, an OCI image layout; `docker`: with docker's manifest.json. `expected_id`:
        what all names must mean."""

    def read_cache_blob(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """A part of a cache that a build made for its client, from byte `offset` on, in chunks of at most 1 MiB."""

    def list_builds(self) -> Sequence[BuildSummary]:
        """Builds that go on or ended a moment ago, the oldest first."""

    async def list_images(
        self,
        reference: str = "",
        labels: Sequence[tuple[str, str]] = (),
        dangling: bool = False,
        parts: bool = False,
    ) -> list[Image]:
        """Newest first; `parts`: with those that only an index names."""

    async def create_index(self, images: Sequence[str], tags: Sequence[str]) -> IndexRecord:
        """An index of these images, and of those of these indexes; the tags mean it."""

    def inspect_index(self, name: str) -> tuple[IndexRecord, bytes]:
        """An index, and its document. Raises NotFound (INDEX_NOT_FOUND, IMAGE_NOT_FOUND)."""

    async def inspect_image(self, name: str) -> tuple[Image, bytes]:
        """The image and its raw configuration."""

    def image_users(self, image_id: str) -> int:
        """Number of containers that use it."""

    async def tag_image(self, source: str, target: str) -> None:
        """Give a name."""

    async def remove_image(self, name: str, force: bool) -> tuple[list[str], list[str]]:
        """(untagged references, deleted ids)."""

    async def prune_images(
        self, labels: Sequence[tuple[str, str]], until: datetime | None, unused: bool
    ) -> tuple[list[str], list[str], int]:
        """(untagged references, deleted ids, freed bytes): images that no container uses, nameless or all."""

    # Containers
    async def run(
        self,
        request_id: str,
        spec: ContainerSpec,
        pull_policy: PullPolicy,
        credentials: RegistryCredentials | None,
        keep_on_failure: bool,
    ) -> tuple[Container, list[str]]:
        """Container and warnings."""

    async def start(self, name: str, request_id: str = "") -> Container:
        """Idempotent."""

    async def create(
        self, request_id: str, spec: ContainerSpec, pull_policy: PullPolicy, credentials: RegistryCredentials | None
    ) -> tuple[Container, list[str]]:
        """Container in state CREATED and warnings."""

    async def restart(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """Stop (as stop does), if it runs, and start."""

    @property
    def control(self) -> ControlUses:
        """What can be done with containers besides."""

    @property
    def insight(self) -> InsightUses:
        """What is found out about containers."""

    async def stop(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """Idempotent; None: the container's own timeout, negative: without end."""

    async def kill(self, name: str, signal: str, request_id: str = "") -> None:
        """Empty signal: SIGKILL. A retry with the same request_id does not signal twice."""

    async def wait(self, name: str, condition: str) -> ExitStatus:
        """condition: "not-running", "next-exit", "removed" or "healthy"."""

    async def remove(self, name: str, force: bool, volumes: bool, request_id: str = "") -> str:
        """Returns the id."""

    async def list_containers(self, wanted: ContainerFilter) -> list[Container]:
        """Newest first."""

    async def inspect_container(self, name: str) -> ContainerDetails:
        """All that is known."""

    def logs(self, name: str, query: LogQuery) -> AsyncIterator[LogBatch]:
        """Batches of at most 256 KiB."""

    async def attach(
        self, name: str, cursor: str, stdout: bool, stderr: bool, stdin: bool, raw: bool = False
    ) -> AttachSession:
        """cursor: "" from now, "start" from the beginning of this run, else resume. raw: as in LogQuery."""

    # Exec
    async def exec(self, request_id: str, order: ExecOrder) -> ExecStarted:
        """Returns when the process runs. A retry with the same id joins the first call."""

    def exec_container(self, exec_id: str) -> str:
        """Id of the container that the process of an exec runs in. Raises NotFound (EXEC_NOT_FOUND)."""

    async def exec_attach(self, exec_id: str, cursor: str, confirms: bool) -> ExecAttachSession:
        """cursor: "" from the beginning, else resume. `confirms`: output is kept until `received`."""

    async def exec_kill(self, exec_id: str, signal: str) -> None:
        """Empty signal: SIGKILL. One that has ended is a success."""

    # Files of containers
    async def stat_path(self, name: str, path: str) -> PathStat:
        """What is at a path."""

    def copy_out(self, name: str, path: str, follow: bool) -> AsyncIterator[PathStat | bytes]:
        """What is at the path, then a tar of it in chunks; `follow` a link at the path itself."""

    async def copy_in(
        self, name: str, path: str, chunks: AsyncIterable[bytes], keep_owner: bool, guard_types: bool
    ) -> None:
        """Unpack a tar in a directory. `guard_types`: no directory becomes something else, nor the other way round."""

    def export_container(self, name: str) -> AsyncIterator[bytes]:
        """The root file system without mounts as a tar in chunks."""

    @property
    def agents(self) -> Agents:
        """Where clients lend their ssh agents."""

    @property
    def lenders(self) -> CacheLenders:
        """Where clients lend caches of builds."""

    @property
    def build_cache(self) -> BuildCacheUses:
        """What can be done with what the builder keeps."""

    # Volumes and files of clients
    @property
    def volumes(self) -> VolumeUses:
        """What can be done with volumes."""

    @property
    def files(self) -> FileUses:
        """What can be done with files of clients."""

    # Networks
    @property
    def networks(self) -> NetworkUses:
        """What can be done with networks."""

    # System
    async def info(self) -> HostInfo:
        """Read-only."""

    async def version(self) -> HostVersion:
        """Read-only."""

    def events(self, wanted: EventFilter) -> AsyncIterator[Event]:
        """From the store, then live."""

    async def cancel(self, request_id: str) -> bool:
        """True when an operation was running."""
