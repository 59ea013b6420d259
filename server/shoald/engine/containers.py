"""Use cases of containers: run, start, stop, kill, wait, remove, list, inspect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from shoal.errors import AlreadyExists, NotFound, ShoalError
from shoal.platform import Platform
from shoald.containers.supervisor import Supervisor
from shoald.engine.images import measured
from shoald.engine.operations import Once
from shoald.engine.ports import ContainerDetails, ContainerFilter, ExitStatus, MountPoint
from shoald.host.blocking import to_end
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerSpec, ContainerState, Mount, MountKind, PullPolicy
from shoald.model.image import Image, RegistryCredentials
from shoald.model.metrics import EngineMetrics

log = structlog.get_logger(__name__)
T = TypeVar("T")
CLOSE_WAIT_S = 30.0
PullImage = Callable[[str, Platform | None, RegistryCredentials | None], Awaitable[Image]]


class ContainerCases:
    """What a caller can do with containers. Work that began is not cancelled with its caller."""

    def __init__(
        self,
        md: Metadata,
        supervisor: Supervisor,
        pull: PullImage,
        *,
        runtime_name: Callable[[], str],
        log_path: Callable[[str], str],
        volume_path: Callable[[str], str],
        userns_size: int,
        warnings: Callable[[ContainerSpec], list[str]],
        metrics: EngineMetrics,
        for_platform: Callable[[str, Image, Platform], Image] = lambda name, image, platform: image,
    ) -> None:
        """`warnings` tells what of a request this host does in another way, for people; `for_platform` chooses among
        the images of an index."""
        self._warnings = warnings
        self._metrics = metrics
        self._for_platform = for_platform
        self._md = md
        self._supervisor = supervisor
        self._pull = pull
        self._runtime_name = runtime_name
        self._log_path = log_path
        self._volume_path = volume_path
        self._userns_size = userns_size
        self._once = Once()
        self._runs: dict[str, tuple[ContainerSpec, asyncio.Task[Container]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- run --------------------------------------------------------------------------------------------------------

    async def run(
        self,
        request_id: str,
        spec: ContainerSpec,
        pull_policy: PullPolicy,
        credentials: RegistryCredentials | None,
        keep_on_failure: bool,
    ) -> tuple[Container, list[str]]:
        """See engine.ports.Engine.run. A retry with the same id joins the first call or finds its container; one that a
        killed daemon did not come to start is started."""
        known = self._runs.get(request_id) if request_id else None
        if known is not None:
            asked, running = known
            if asked != spec:
                raise _reused(request_id)
        else:
            running = asyncio.create_task(self._run(request_id, spec, pull_policy, credentials, keep_on_failure))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
            if request_id:
                self._runs[request_id] = (spec, running)
                running.add_done_callback(lambda _: self._runs.pop(request_id, None))
        return await asyncio.shield(running), self._warnings(spec)

    async def create(
        self, request_id: str, spec: ContainerSpec, pull_policy: PullPolicy, credentials: RegistryCredentials | None
    ) -> tuple[Container, list[str]]:
        """See engine.ports.Engine.create. A retry with the same id joins the first call or finds its container."""

        async def work() -> Container:
            made = self._made_by(request_id, spec)
            if made is not None:
                return made
            image = await self._image(spec, pull_policy, credentials)
            return await self._supervisor.create(request_id, spec, image, made_to_wait=True)

        fingerprint = f"create {msgspec.json.encode(spec).decode()}"
        made = await self._once.run(request_id, fingerprint, lambda: self._kept(work()))
        return self._md.containers.get(made.id) or made, self._warnings(spec)

    def _made_by(self, request_id: str, spec: ContainerSpec) -> Container | None:
        if not request_id:
            return None
        known = self._md.containers.by_request(request_id) or self._supervisor.ghosts.by_request(request_id)
        if known is not None and _as_asked(known.spec) != _as_asked(spec):
            raise _reused(request_id)
        return known

    async def _run(
        self,
        request_id: str,
        spec: ContainerSpec,
        pull_policy: PullPolicy,
        credentials: RegistryCredentials | None,
        keep_on_failure: bool,
    ) -> Container:
        made = self._made_by(request_id, spec)
        if made is not None:
            never_started = made.state is ContainerState.CREATED and made.started_at is None
            return await self._start_made(made, keep_on_failure) if never_started else made
        image = await self._image(spec, pull_policy, credentials)
        async with measured(self._metrics, "run"):
            return await self._start_new(request_id, spec, image, keep_on_failure)

    async def _start_new(self, request_id: str, spec: ContainerSpec, image: Image, keep_on_failure: bool) -> Container:
        return await self._start_made(await self._supervisor.create(request_id, spec, image), keep_on_failure)

    async def _start_made(self, container: Container, keep_on_failure: bool) -> Container:
        try:
            return await self._supervisor.start(container.id)
        except BaseException:
            if not keep_on_failure:
                try:
                    await to_end(self._supervisor.remove(container.id, force=True, volumes=True))
                except ShoalError as error:
                    log.error("run_not_undone", container=container.id, error=str(error))
            raise

    async def _image(
        self, spec: ContainerSpec, pull_policy: PullPolicy, credentials: RegistryCredentials | None
    ) -> Image:
        platform = Platform.parse(spec.platform) if spec.platform else None
        if pull_policy is PullPolicy.ALWAYS:
            return await self._pull(spec.image, platform, credentials)
        try:
            image = self._md.images.find(spec.image)
        except NotFound:
            if pull_policy is PullPolicy.NEVER or _is_id(spec.image):
                raise
            return await self._pull(spec.image, platform, credentials)
        if platform is not None:
            image = self._for_platform(spec.image, image, platform)
        if platform is not None and not platform.matches(image.config.platform) and pull_policy is PullPolicy.MISSING:
            return await self._pull(spec.image, platform, credentials)
        return image

    # --- the others -------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Container:
        """By id, unique prefix or name; also one that was removed a moment ago, by its id."""
        try:
            return self._md.containers.find(name)
        except NotFound:
            ghost = self._supervisor.ghosts.get(name)
            if ghost is None:
                raise
            return ghost

    async def start(self, name: str, request_id: str = "") -> Container:
        """Idempotent."""

        async def work() -> Container:
            return await self._supervisor.start(self._md.containers.find(name).id)

        return await self._once.run(request_id, f"start {name}", lambda: self._kept(work()))

    async def stop(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """Idempotent."""

        async def work() -> Container:
            container = self.find(name)
            if self._supervisor.ghosts.get(container.id) is not None:
                return replace(container, state=ContainerState.EXITED, pid=0)
            async with measured(self._metrics, "stop"):
                return await self._supervisor.stop(container.id, timeout_s, signal)

        return await self._once.run(request_id, f"stop {name} {timeout_s} {signal}", lambda: self._kept(work()))

    async def restart(self, name: str, timeout_s: float | None, signal: str, request_id: str = "") -> Container:
        """Stop it if it runs, and start it."""

        async def work() -> Container:
            return await self._supervisor.restart(self._md.containers.find(name).id, timeout_s, signal)

        return await self._once.run(request_id, f"restart {name} {timeout_s} {signal}", lambda: self._kept(work()))

    async def kill(self, name: str, signal: str, request_id: str = "") -> None:
        """Once for each request id."""

        async def work() -> None:
            await self._supervisor.kill(self._md.containers.find(name).id, signal)

        await self._once.run(request_id, f"kill {name} {signal}", lambda: self._kept(work()))

    async def remove(self, name: str, force: bool, volumes: bool, request_id: str = "") -> str:
        """Returns the id."""

        async def work() -> str:
            try:
                container = self._md.containers.find(name)
            except NotFound:
                ghost = self._supervisor.ghosts.get(name)
                if force and ghost is not None:
                    return ghost.id
                raise
            async with measured(self._metrics, "remove"):
                await self._supervisor.remove(container.id, force=force, volumes=volumes)
            return container.id

        return await self._once.run(request_id, f"remove {name} {force} {volumes}", lambda: self._kept(work()))

    async def _kept(self, work: Coroutine[Any, Any, T]) -> T:
        """Let `close` know of the task that does the work."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """Cancel what is under way, and wait until it is undone. Containers that run go on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WAIT_S)

    async def wait(self, name: str, condition: str) -> ExitStatus:
        """Read-only; cancelled with its caller."""
        container = self.find(name)
        end = await self._supervisor.wait(container.id, condition)
        return ExitStatus(end.exit_code, end.oom_killed, end.error)

    async def list_containers(self, wanted: ContainerFilter) -> list[Container]:
        """Newest first."""
        found = [c for c in self._md.containers.list() if c.state is not ContainerState.CREATING and selects(wanted, c)]
        if wanted.network:
            found = self._in_network(wanted.network, found)
        found.sort(key=lambda c: c.created_at, reverse=True)
        return found[: wanted.limit] if wanted.limit > 0 else found

    def _in_network(self, wanted: str, found: list[Container]) -> list[Container]:
        if wanted in ("host", "none"):
            return [container for container in found if container.spec.network == wanted]
        ids = {network.id for network in self._md.networks.list() if wanted in (network.name, network.id)} or {wanted}
        members = {each for network_id in ids for each in self._md.memberships.members(network_id)}
        return [container for container in found if container.id in members]

    async def inspect_container(self, name: str) -> ContainerDetails:
        """All that is known."""
        container = self._md.containers.find(name)
        return ContainerDetails(
            container=container,
            runtime=self._runtime_name(),
            mounts=tuple(self._mount_points(container)),
            log_path=self._log_path(container.id),
            userns_size=self._userns_size if container.userns_base else 0,
        )

    def _mount_points(self, container: Container) -> list[MountPoint]:
        points = []
        for mount in container.spec.mounts:
            source = mount.source
            name = ""
            if mount.kind is MountKind.VOLUME:
                name = mount.source
                with contextlib.suppress(NotFound):
                    source = self._volume_path(mount.source)
            elif mount.kind is MountKind.CONTENT:
                name = mount.content_digest
            points.append(MountPoint(mount.kind.value, name, source, mount.target, mount.read_only))
        return points


def selects(wanted: ContainerFilter, container: Container) -> bool:
    """Whether a list request selects this container; see shoal.v1.ContainerServiceListRequest."""
    running = container.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)
    if not (wanted.all or wanted.states or wanted.limit > 0 or running):
        return False
    if wanted.states and container.state not in wanted.states:
        return False
    if wanted.name and wanted.name not in container.name:
        return False
    if wanted.health is not None and (container.health is None or container.health.status is not wanted.health):
        return False
    if wanted.volume and not any(_is_volume(wanted.volume, mount) for mount in container.spec.mounts):
        return False
    labels = container.spec.labels
    if not all(key in labels and (not value or labels[key] == value) for key, value in wanted.labels):
        return False
    return (
        not wanted.image
        or wanted.image in (container.spec.image, container.image_id)
        or (container.image_id.removeprefix("sha256:").startswith(wanted.image))
    )


def _is_volume(wanted: str, mount: Mount) -> bool:
    """Docker's filter takes a volume's name and the place of a mount."""
    return wanted == mount.target or (mount.kind is MountKind.VOLUME and wanted == mount.source)


def _as_asked(spec: ContainerSpec) -> ContainerSpec:
    """Without what the daemon chooses."""
    asked = tuple(mount for mount in spec.mounts if not mount.anonymous and mount.source)
    ports = tuple(port for port in spec.ports if port.host_port) if spec.publish_all else spec.ports
    return replace(spec, name="", mounts=asked, ports=ports)


def _reused(request_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"request id {request_id} was used for another request",
        reason="REQUEST_ID_REUSED",
        hint="make a new request id for a new request",
    )


def _is_id(name: str) -> bool:
    bare = name.removeprefix("sha256:")
    return len(bare) == 64 and all(c in "0123456789abcdef" for c in bare)
