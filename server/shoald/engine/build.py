"""Use case of builds: the context comes in, the plan is solved, the image goes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from shoal.errors import DataLoss, InvalidArgument, NotFound, ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.build.cacheformat import INLINE
from shoald.build.contexts import Contexts
from shoald.build.executor import StepExecutor
from shoald.build.packing import Packing
from shoald.build.place import BuildPlace
from shoald.build.remotecache import RemoteCaches
from shoald.build.solver import Build, Emit, Solver, StageResult, StepLayer
from shoald.containers.isolation import HOST_GATEWAY, parse_extra_host
from shoald.dockerfile.config import HistoryEntry
from shoald.dockerfile.graph import BuildPlan, plan
from shoald.dockerfile.steps import ContextBase, ImageBase
from shoald.engine.images import fingerprint
from shoald.engine.operations import Operation, Operations
from shoald.engine.ports import BuildEvent, BuildEventBody
from shoald.images.assemble import Assembler, BuiltLayer
from shoald.images.layers import Layers
from shoald.metadata.store import Metadata
from shoald.model.build import BuildEstimate, BuildRequest, BuildState, BuildSummary, StepFinished
from shoald.model.image import Image
from shoald.model.metrics import EngineMetrics
from shoald.model.network import ABSTRACT
from shoald.model.snapshot import Snapshot
from shoald.network.networks import Networks

EPOCH = "SOURCE_DATE_EPOCH"

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
        packing: Packing,
        assembler: Assembler,
        layers: Layers,
        contexts: Contexts,
        caches: RemoteCaches,
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
        self._packing = packing
        self._assembler = assembler
        self._layers = layers
        self._contexts = contexts
        self._caches = caches
        self._networks = networks
        self._tmp_dir = tmp_dir
        self._userns = userns
        self._publish = publish
        self._metrics = metrics

    async def build(
        self, request_id: str, request: BuildRequest, contexts: AsyncIterable[tuple[str, AsyncIterable[bytes]]]
    ) -> AsyncIterator[BuildEvent | Image]:
        """See engine.ports.Engine.build."""
        _epoch(request)
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

            async def work(emit: Emit) -> Image:
                try:
                    return await self._measured(request, place, emit)
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
        planned = await self._planned(request)
        place = BuildPlace(self._tmp_dir)
        try:
            held = await place.describe(request, self._contexts)
            with self._md.leases.lease("estimate") as lease:
                local = msgspec.structs.replace(request, pull=False, no_cache=False)
                build = Build(local, planned, place, lease, 0, lambda event: None, local=True)
                cached = await self._solver.cached_steps(build)
        finally:
            self._executor.forget(place)
            await asyncio.shield(place.remove())
        return BuildEstimate(cached, held, Platform.host())

    async def follow_build(self, request_id: str, cursor: int, wait: bool) -> AsyncIterator[BuildEvent | Image]:
        """See engine.ports.Engine.follow_build."""
        operation = cast("Operation[Image]", self._operations.get(request_id, "build"))
        async for event in self._follow(operation, cursor, wait=wait):
            yield event

    async def _follow(
        self, operation: Operation[Image], cursor: int, *, wait: bool = True
    ) -> AsyncIterator[BuildEvent | Image]:
        async for number, stamped in operation.follow(cursor, wait=wait):
            at, body = cast("tuple[datetime, BuildEventBody]", stamped)
            yield BuildEvent(number, at, body)
        if wait or operation.done:
            yield await operation.result()

    def list_builds(self) -> Sequence[BuildSummary]:
        """See engine.ports.Engine.list_builds."""
        return [_summary(cast("Operation[Image]", operation)) for operation in self._operations.all("build")]

    async def _measured(self, request: BuildRequest, place: BuildPlace, emit: Emit) -> Image:
        begun = time.monotonic()
        failed = True
        try:
            image = await self._build(request, place, _Stamped(emit, self._metrics))
            failed = False
            return image
        finally:
            self._metrics.operation("build", time.monotonic() - begun, failed=failed)

    async def _build(self, request: BuildRequest, place: BuildPlace, emit: Emit) -> Image:
        planned = await self._planned(request)
        with self._md.leases.lease("build") as lease, self._network(request):
            base = self._md.containers.allocate_userns(
                self._userns.base, self._userns.size, self._userns.slots, lease=lease
            )
            known = await self._caches.known(request, request.platform or Platform.host(), emit)
            build = Build(request, planned, place, lease, base, emit, known)
            result = await self._solver.solve(build)
            image = await self._finish(build, result)
            await self._caches.write(build, result.layers)
        self._publish("image", "build", image.id, {"name": request.tags[0] if request.tags else ""})
        return image

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

    async def _finish(self, build: Build, result: StageResult) -> Image:
        blobs = await asyncio.gather(*(self._packing.blob(layer, build.lease) for layer in result.layers))
        config = result.state.image_config()
        platform = build.plan.platform_of(build.plan.target)
        created, history = self._history(result, _epoch(build.request))
        document: dict[str, Any] = {
            "created": created,
            "author": config.author,
            "architecture": platform.architecture,
            "variant": platform.variant,
            "os": platform.os,
            "config": config.to_oci(),
            "history": history,
        }
        below = self._assembler.layers_of(result.base_image) if result.base_image else []
        if build.request.inline_cache:
            document[INLINE] = [*("" for _ in below), *(layer.key for layer in result.layers)]
        own = [BuiltLayer(blob, self._snapshot(layer)) for layer, blob in zip(result.layers, blobs, strict=True)]
        document["rootfs"] = {"type": "layers", "diff_ids": [layer.blob.diff_id for layer in (*below, *own)]}
        body = json.dumps({key: value for key, value in document.items() if value != ""}, separators=(",", ":"))
        return await self._assembler.create_image(body.encode(), [*below, *own], build.request.tags)

    def _snapshot(self, layer: StepLayer) -> Snapshot:
        snapshot = self._md.snapshots.get(layer.snapshot_id)
        if snapshot is None:
            raise DataLoss(
                f"snapshot {layer.snapshot_id} is gone", reason="SNAPSHOT_LOST", hint="build again with --no-cache"
            )
        return snapshot

    def _history(self, result: StageResult, epoch: str) -> tuple[str, list[dict[str, Any]]]:
        """Times follow from the layers, as BuildKit has them: an unchanged rebuild gives the same image. With `epoch`
        that is the time of all that this build adds."""
        base = result.base_image.config if result.base_image else None
        history = [msgspec.to_builtins(entry) for entry in (base.history or [])] if base else []
        if epoch:
            own = [{"created": epoch, **HistoryEntry.to_oci(entry)} for entry in result.state.history]
            return epoch, [*history, *own]
        time_ = base.created if base else None
        times = iter([self._made_at(layer) for layer in result.layers])
        first = None
        for entry in result.state.history:
            if not entry.empty_layer:
                time_ = next(times, time_)
                first = first or time_
        fallback = time_ or _text(datetime.now(UTC))
        time_ = (base.created if base else None) or first or fallback
        times = iter([self._made_at(layer) for layer in result.layers])
        for entry in result.state.history:
            if not entry.empty_layer:
                time_ = next(times, time_)
            history.append({"created": time_, **HistoryEntry.to_oci(entry)})
        return time_ or fallback, history

    def _made_at(self, layer: StepLayer) -> str:
        entry = self._md.cache.get(layer.key)
        return _text(entry.created_at if entry else datetime.now(UTC))


def _summary(operation: Operation[Image]) -> BuildSummary:
    outcome = operation.outcome()
    state, image_id, error = BuildState.RUNNING, "", ""
    if isinstance(outcome, BaseException):
        state, error = BuildState.FAILED, str(outcome)
    elif outcome is not None:
        state, image_id = BuildState.SUCCEEDED, outcome.id
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


def _epoch(request: BuildRequest) -> str:
    """The time of SOURCE_DATE_EPOCH, or "". Raises InvalidArgument (INVALID_BUILD_ARG).

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = request.build_args.get(EPOCH, "")
    if not text:
        return ""
    try:
        return _text(datetime.fromtimestamp(int(text), UTC))
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(
            f"build argument {EPOCH}={text[:80]!r} is no number of seconds", reason="INVALID_BUILD_ARG"
        ) from None


def _text(time_: datetime) -> str:
    return time_.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _fingerprint(request: BuildRequest) -> str:
    plain = msgspec.to_builtins(request)
    plain.pop("credentials", None)
    plain.pop("cache_credentials", None)
    plain.pop("secrets", None)  # a retry may have read them anew; nothing that is kept may tell of them
    return fingerprint(sorted((key, repr(value)) for key, value in plain.items()))


async def find_base(
    md: Metadata,
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
            image = md.images.find(name)
            if platform.matches(image.config.platform):
                return image
    if local:
        raise NotFound(f"{reference} is not here", reason="IMAGE_NOT_FOUND")
    given = request.credentials
    try:
        return await pull(reference, platform, given if given and given.registry == parsed.domain else None, emit)
    except ShoalError as error:
        error.message = f"{reference}: {error.message}"
        raise
