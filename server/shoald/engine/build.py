"""Use case of builds: the context comes in, the plan is solved, the image goes out."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from shoal.errors import InvalidArgument, NotFound, ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.build.cacheexports import CacheExports
from shoald.build.contexts import Contexts
from shoald.build.executor import StepExecutor
from shoald.build.finishing import Finishing, epoch
from shoald.build.place import BuildPlace
from shoald.build.remotecache import RemoteCaches
from shoald.build.solver import Build, Emit, Solver, StageResult
from shoald.build.telling import of_platform
from shoald.containers.isolation import HOST_GATEWAY, parse_extra_host
from shoald.dockerfile.graph import BuildPlan, plan
from shoald.dockerfile.steps import ContextBase, ImageBase
from shoald.engine.images import fingerprint
from shoald.engine.operations import Operation, Operations
from shoald.engine.ports import BuildEvent, BuildEventBody
from shoald.images.flights import all_of
from shoald.images.indexing import Indexer, Part
from shoald.images.layers import Layers
from shoald.metadata.leases import HoldKind
from shoald.metadata.store import Metadata
from shoald.model.build import BuildEstimate, BuildRequest, BuildState, BuildSummary, Built, StepFinished
from shoald.model.image import Image
from shoald.model.metrics import EngineMetrics
from shoald.model.network import ABSTRACT
from shoald.network.networks import Networks

if TYPE_CHECKING:
    from shoald.build.attesting import Attesting

Publish = Callable[[str, str, str, dict[str, str]], None]
_ID = re.compile(r"sha256:[0-9a-f]{64}")


class BuildCases:
    """Builds, each an operation that outlives its caller once its context is here."""

    def __init__(
        self,
        md: Metadata,
        operations: Operations,
        solver: Solver,
        executor: StepExecutor,
        finishing: Finishing,
        attesting: Callable[[], Attesting],
        indexer: Indexer,
        layers: Layers,
        contexts: Contexts,
        caches: RemoteCaches,
        exports: CacheExports,
        networks: Networks,
        tmp_dir: Path,
        userns: Any,
        publish: Publish,
        metrics: EngineMetrics,
    ) -> None:
        self._md = md
        self._operations = operations
        self._solver = solver
        self._executor = executor
        self._finishing = finishing
        self._attesting = attesting
        self._indexer = indexer
        self._layers = layers
        self._contexts = contexts
        self._caches = caches
        self._exports = exports
        self._networks = networks
        self._tmp_dir = tmp_dir
        self._userns = userns
        self._publish = publish
        self._metrics = metrics

    async def build(
        self, request_id: str, request: BuildRequest, contexts: AsyncIterable[tuple[str, AsyncIterable[bytes]]]
    ) -> AsyncIterator[BuildEvent | Built]:
        """See engine.ports.Engine.build."""
        epoch(request)
        for entry in request.extra_hosts:
            if parse_extra_host(entry)[1] == HOST_GATEWAY and request.network in ("none", "host"):
                raise InvalidArgument(f"{entry}: network {request.network} has no gateway", reason="INVALID_EXTRA_HOST")
        for tag in request.tags:
            if Reference.parse(tag).digest is not None:
                raise InvalidArgument(f"a tag can't have a digest: {tag}", reason="INVALID_REFERENCE")
        with self._network(request):
            pass  # it is there
        started = False
        place = BuildPlace(self._tmp_dir)
        try:
            await place.make(request, self._contexts)
            async for name, chunks in contexts:
                await self._layers.unpack_context(chunks, place.roots[name])

            async def work(emit: Emit) -> Built:
                try:
                    return await self._measured(request_id, request, place, emit)
                finally:
                    self._executor.forget(place)
                    await asyncio.shield(place.remove())

            title = request.tags[0] if request.tags else ""
            operation, started = self._operations.start(request_id, "build", _fingerprint(request), work, title)
        finally:
            if not started:
                await asyncio.shield(place.remove())
        async for event in self._follow(operation, 0):
            yield event

    async def estimate(self, request: BuildRequest) -> BuildEstimate:
        """See engine.ports.Engine.estimate_build."""
        place = BuildPlace(self._tmp_dir)
        cached = 0
        try:
            held = await place.describe(request, self._contexts)
            with self._md.leases.lease("estimate") as lease:
                for platform in request.targets:
                    local = msgspec.structs.replace(request, platform=platform, pull=False, no_cache=False)
                    planned = await self._planned(local)
                    build = Build(local, planned, place, lease, 0, lambda event: None, local=True)
                    cached += await self._solver.cached_steps(build)
        finally:
            self._executor.forget(place)
            await asyncio.shield(place.remove())
        return BuildEstimate(cached, held, Platform.host())

    async def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Built]:
        """See engine.ports.Engine.follow_build."""
        operation = cast("Operation[Built]", self._operations.get(request_id, "build"))
        async for event in self._follow(operation, cursor, wait=wait):
            yield event

    async def _follow(
        self, operation: Operation[Built], cursor: int, *, wait: bool = True
    ) -> AsyncIterator[BuildEvent | Built]:
        async for number, stamped in operation.follow(cursor, wait=wait):
            at, body = cast("tuple[datetime, BuildEventBody]", stamped)
            yield BuildEvent(number, at, body)
        if wait or operation.done:
            yield await operation.result()

    def read_cache_blob(self, request_id: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """See engine.ports.Engine.read_cache_blob."""
        return self._exports.read(request_id, digest, offset)

    def list_builds(self) -> Sequence[BuildSummary]:
        """See engine.ports.Engine.list_builds."""
        return [_summary(cast("Operation[Built]", operation)) for operation in self._operations.all("build")]

    async def _measured(self, request_id: str, request: BuildRequest, place: BuildPlace, emit: Emit) -> Built:
        begun = time.monotonic()
        failed = True
        try:
            built = await self._build(request_id, request, place, _Stamped(emit, self._metrics))
            failed = False
            return built
        finally:
            self._metrics.operation("build", time.monotonic() - begun, failed=failed)

    async def _build(self, request_id: str, request: BuildRequest, place: BuildPlace, emit: Emit) -> Built:
        started = datetime.now(UTC)
        with self._md.leases.lease("build") as lease, self._network(request):
            base = self._md.containers.allocate_userns(
                self._userns.base, self._userns.size, self._userns.slots, lease=lease
            )
            several = len(request.targets) > 1
            indexed = several or request.sbom or request.provenance is not None

            async def one(number: int, platform: Platform) -> tuple[Build, StageResult]:
                tell = of_platform(emit, platform, first=number == 0) if several else emit
                own = msgspec.structs.replace(request, platform=platform) if several else request
                planned = await self._planned(own)
                known = await self._caches.known(own, platform, tell)
                build = Build(own, planned, place, lease, base, tell, known)
                return build, await self._solver.solve(build)

            solved = await all_of(one(number, platform) for number, platform in enumerate(request.targets))
            tags = () if indexed else request.tags
            images = []
            for build, result in solved:
                images.append(await self._finishing.image(build, result, tags))
                # Nameless until their index is there: `image prune` leaves what is held.
                self._md.leases.hold(lease, HoldKind.BLOB, images[-1].manifest_digest)
            built = Built(images[0])
            if indexed:
                attesting = self._attesting() if request.sbom or request.provenance else None
                parts = [
                    Part(image, await attesting.entries(build, request_id, image, started) if attesting else ())
                    for image, (build, _) in zip(images, solved, strict=True)
                ]
                record = await self._indexer.create(parts, request.tags)
                built = Built(next(image for image in images if image.id == record.image_id), record)
            await self._caches.write([build for build, _ in solved], [result.layers for _, result in solved])
            await self._exports.make(
                request_id, [build for build, _ in solved], [result.layers for _, result in solved]
            )
            # Its tags were given a moment ago.
            built = Built(self._md.images.get(built.image.id) or built.image, built.index)
        self._publish("image", "build", built.image.id, {"name": request.tags[0] if request.tags else ""})
        return built

    @contextlib.contextmanager
    def _network(self, request: BuildRequest) -> Iterator[None]:
        """Keep the network of the steps for the time of the block. Raises NotFound (NETWORK_NOT_FOUND)."""
        if request.network in ABSTRACT:
            yield
            return
        with self._networks.guests.use(self._networks.find(request.network).id):
            yield

    async def _planned(self, request: BuildRequest) -> BuildPlan:
        # A large file takes a while to parse.
        return await asyncio.to_thread(
            plan,
            request.dockerfile,
            target_platform=request.platform or Platform.host(),
            build_platform=Platform.host(),
            build_args=request.build_args,
            target=request.target,
            labels=request.labels,
            contexts={
                name: ImageBase(reference) if reference else ContextBase(name)
                for name, reference in request.contexts.items()
            },
            filename=request.dockerfile_name,
        )


def _summary(operation: Operation[Built]) -> BuildSummary:
    outcome = operation.outcome()
    state, image_id, error = BuildState.RUNNING, "", ""
    if isinstance(outcome, BaseException):
        state, error = BuildState.FAILED, str(outcome)
    elif outcome is not None:
        state, image_id = BuildState.SUCCEEDED, outcome.image.id
    elif operation.done:
        state = BuildState.CANCELLED
    return BuildSummary(
        operation.request_id, state, operation.title, operation.started, operation.ended, image_id, error
    )


class _Stamped:
    """Gives each event its time, and counts steps."""

    def __init__(self, emit: Emit, metrics: EngineMetrics) -> None:
        self._emit = emit
        self._metrics = metrics

    def __call__(self, event: object) -> None:
        if isinstance(event, StepFinished) and not event.error:
            self._metrics.build_step(cached=event.cached)
        self._emit((datetime.now(UTC), event))


def _fingerprint(request: BuildRequest) -> str:
    plain = msgspec.to_builtins(request)
    plain.pop("credentials", None)
    plain.pop("cache_credentials", None)
    plain.pop("secrets", None)  # a retry may have read them anew; nothing that is kept may tell of them
    return fingerprint(sorted((key, repr(value)) for key, value in plain.items()))


async def find_base(
    md: Metadata,
    for_platform: Callable[[str, Image, Platform], Image],
    pull: Callable[..., Awaitable[Image]],
    reference: str,
    platform: Platform,
    request: BuildRequest,
    emit: Emit,
    *,
    local: bool = False,
) -> Image:
    """The image that a stage starts from: the host's own when its platform fits, else pulled unless it must be `local`.

    Its registry gets the credentials of the request only if they are for it.
    """
    parsed = Reference.parse(reference)
    # A name must not mean the image whose id happens to begin with it: only a whole id is one.
    name = reference if _ID.fullmatch(reference) else str(parsed.docker_ref())
    if not request.pull:
        with contextlib.suppress(NotFound):
            image = for_platform(name, md.images.find(name), platform)
            if platform.matches(image.config.platform):
                return image
    if local:
        raise NotFound(f"{reference} is not here", reason="IMAGE_NOT_FOUND")
    given = request.credentials
    allowed = given if given and given.registry == parsed.domain else None
    # A base for another platform must not take its name away from the image that containers here start from.
    tagged = platform.matches(Platform.host()) or Platform.host().matches(platform)
    try:
        return await pull(reference, platform, allowed, emit, tagged=tagged)
    except ShoalError as error:
        error.message = f"{reference}: {error.message}"
        raise
