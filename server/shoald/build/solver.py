"""Carries a build plan out: independent stages side by side, steps from the cache or by the executor.

A stage is a task; another stage that needs it awaits the task. Equal steps of builds at the same time run once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from shoal.errors import NotFound, ShoalError
from shoal.platform import Platform
from shoald.attest.materials import Material
from shoald.build.keys import base_key, key_of
from shoald.build.place import BuildPlace
from shoald.build.telling import Steps, placed, warning
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.graph import BuildPlan, StagePlan
from shoald.dockerfile.state import StageState
from shoald.dockerfile.steps import (
    Base,
    ContextBase,
    CopyStep,
    DirectoryBase,
    ImageBase,
    MetaStep,
    ScratchBase,
    StageBase,
    Step,
)
from shoald.images.layerfetch import Origin
from shoald.metadata.leases import HoldKind
from shoald.metadata.store import Metadata
from shoald.model.build import BuildRequest
from shoald.model.image import Image

Emit = Callable[[object], None]
Log = Callable[[bool, bytes], None]
Restore = Callable[["Build", str, Origin, str | None, str], Awaitable[str | None]]


@dataclass(frozen=True)
class StageResult:
    """Where a stage is: state, content key, top snapshot, and its own layers over the base image, lowest first."""

    state: StageState
    key: str
    snapshot_id: str | None
    base_image: Image | None
    layers: tuple[StepLayer, ...] = ()


_NOTHING = StageResult(cast("StageState", None), "", None, None)
"""The result of a stage that is not in the cache as a whole."""


@dataclass(frozen=True)
class StepLayer:
    """A step's layer: its content key, which names its entry in the cache, and its snapshot."""

    key: str
    snapshot_id: str


@dataclass(frozen=True)
class Build:
    """One build in progress."""

    request: BuildRequest
    plan: BuildPlan
    place: BuildPlace
    lease: str
    userns_base: int
    emit: Emit
    known: Mapping[str, Origin] = field(default_factory=dict)
    """What caches in registries have, by key."""
    local: bool = False
    """Only with images that are here."""
    made: dict[str, StepLayer] = field(default_factory=dict)
    """The layers of all steps that were done, or found, by key."""
    images: dict[tuple[str, str], Image] = field(default_factory=dict)
    """What stages start and copy from, by reference and platform."""
    fetched: dict[str, Material] = field(default_factory=dict)
    """What ADD got from elsewhere, by URL."""

    def files_of(self, base: ContextBase) -> Path:
        """The directory of a context."""
        if base.name not in self.place.roots:
            raise NotFound("the context is not here", reason="CONTEXT_MISSING")
        return self.place.roots[base.name]


class Executor(Protocol):
    """Does one step."""

    async def key(self, build: Build, stage: StageResult, step: Step, roots: Roots) -> Keyed:
        """The content key of the step on this state, and what was found out on the way."""

    async def execute(self, build: Build, stage: StageResult, step: Step, keyed: Keyed, roots: Roots, log: Log) -> str:
        """Carry it out; the id of the new, committed snapshot. `log(is standard error, bytes)` takes its output."""


@dataclass(frozen=True)
class Keyed:
    """A step's key and, for a copy, the selection that it was made from."""

    key: str
    items: Any = None


class Roots(Protocol):
    """Where COPY and mounts take their files from."""

    async def snapshot_of(self, base: Base) -> str | None:
        """The top snapshot of a stage or image; None for an empty one."""


class Solver:
    """Solves builds; holds what they share."""

    def __init__(
        self,
        md: Metadata,
        executor: Executor,
        find_image: Callable[[str, Platform, Build], Coroutine[Any, Any, Image]],
        begin_packing: Callable[[StepLayer, str], None],
        restore: Restore,
    ) -> None:
        """`begin_packing(layer, lease)` is told of each layer of the result as soon as it is there; `restore` gives a
        step's snapshot from a registry, or None."""
        self.restore = restore
        self.md = md
        self.begin_packing = begin_packing
        self.executor = executor
        self.find_image = find_image
        self._running: dict[str, asyncio.Task[str]] = {}

    async def solve(self, build: Build) -> StageResult:
        """The target stage's result. Raises the first error of any stage, after all others were stopped."""
        for finding in build.plan.warnings:
            build.emit(warning(finding))
        run = _Run(self, build)
        try:
            async with asyncio.TaskGroup() as group:
                run.group = group
                for index in build.plan.needed:
                    run.stage(index)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        found = [finding for stage in run.results() for finding in stage.state.warnings]
        build.plan.enforce_checks([*build.plan.warnings, *found])
        return run.stage(build.plan.target).result()

    async def cached_steps(self, build: Build) -> int:
        """How many steps of a build would come from this host's cache. Nothing is made, or fetched."""
        run = DryRun(self, build)
        async with asyncio.TaskGroup() as group:
            run.group = group
            for index in build.plan.needed:
                run.stage(index)
        return run.cached

    async def snapshot(self, build: Build, key: str, make: Callable[[], Awaitable[str]]) -> tuple[str, bool]:
        """The snapshot of a step, from the cache, from the same step in another build, or made now (False)."""
        while True:
            if not build.request.no_cache and (found := self.cached(build, key)) is not None:
                return found, True
            other = self._running.get(key)
            if other is None:
                break
            await asyncio.wait([other])
            if build.request.no_cache and not other.cancelled() and other.exception() is None:
                self.md.leases.hold(build.lease, HoldKind.SNAPSHOT, other.result())
                return other.result(), True
        task = asyncio.ensure_future(make())
        self._running[key] = task
        try:
            return await task, False
        finally:
            del self._running[key]

    def cached(self, build: Build, key: str, *, touch: bool = True) -> str | None:
        """The snapshot that the cache has under a key, held for the build from now on; `touch`: it counts as used."""
        with self.md.transaction():
            entry = self.md.cache.get(key)
            if entry is None or entry.snapshot_id is None:
                return None
            self.md.leases.hold(build.lease, HoldKind.SNAPSHOT, entry.snapshot_id)
            if touch:
                self.md.cache.touch(key)
            return entry.snapshot_id


class _Run:
    """The stages of one build as tasks, made when first needed: an ONBUILD trigger may need more than the plan."""

    group: asyncio.TaskGroup

    def __init__(self, solver: Solver, build: Build) -> None:
        self._solver = solver
        self._build = build
        self._stages: dict[int, asyncio.Task[StageResult]] = {}
        self._images: dict[tuple[str, str], asyncio.Task[Image]] = {}
        self._exported = _chain(build.plan)

    def stage(self, index: int) -> asyncio.Task[StageResult]:
        """The task of a stage."""
        if index not in self._stages:
            self._stages[index] = self.group.create_task(self._run_stage(index))
        return self._stages[index]

    async def _needed(self, index: int) -> StageResult:
        """The result of a stage that another one needs."""
        return await self.stage(index)

    def results(self) -> list[StageResult]:
        """Of all stages, when all have ended well."""
        return [task.result() for task in self._stages.values()]

    async def snapshot_of(self, base: Base) -> str | None:
        """See Roots."""
        if isinstance(base, StageBase):
            return (await self._needed(base.index)).snapshot_id
        assert isinstance(base, ImageBase)
        image = await self._image(base.reference, self._build.plan.target_platform)
        return self._top(image)

    async def _image(self, reference: str, platform: Platform) -> Image:
        key = (reference, str(platform))
        if key not in self._images:
            build = self._build
            self._images[key] = self.group.create_task(self._solver.find_image(reference, platform, build))
        self._build.images[key] = found = await self._images[key]
        return found

    def _top(self, image: Image) -> str | None:
        snapshot = self._solver.md.snapshots.by_chain(image.chain_id) if image.chain_id else None
        if snapshot is not None:
            self._solver.md.leases.hold(self._build.lease, HoldKind.SNAPSHOT, snapshot.id)
        return snapshot.id if snapshot else None

    async def _begin(self, stage: StagePlan) -> StageResult:
        plan = self._build.plan
        match stage.base:
            case StageBase(index):
                parent = await self._needed(index)
                return replace(parent, state=StageState.start_from(plan, stage.index, parent.state))
            case ImageBase(reference):
                image = await self._image(reference, plan.platform_of(stage.index))
                state = StageState.start(
                    plan, stage.index, config_object(image), image.config.author, image.config.platform
                )
                return StageResult(state, base_key(image.chain_id), self._top(image), image)
            case ScratchBase():
                return StageResult(StageState.start(plan, stage.index, {"WorkingDir": "/"}), base_key(""), None, None)
            case ContextBase() | DirectoryBase():
                return StageResult(StageState.start(plan, stage.index, {"WorkingDir": "/"}), base_key(""), None, None)

    async def _run_stage(self, index: int) -> StageResult:
        stage = self._build.plan.stages[index]
        steps = Steps(self._build, stage)
        if isinstance(stage.base, ImageBase):
            steps.begin(stage.text, stage.span)
            try:
                at = await self._begin(stage)
            except ShoalError as error:
                steps.end(error=str(error))
                raise placed(error, stage.span, self._build) from error
            steps.end(cached=True)
        else:
            at = await self._begin(stage)
            steps.number = 0
        steps.count(at.state)
        if isinstance(stage.base, ContextBase):
            text = f"COPY --from={stage.base.name} / /"
            state, step = at.state.apply(ins.Copy(text=text, spelled="COPY", span=stage.span, sources=("/",), dest="/"))
            assert isinstance(step, CopyStep)
            at = await self._step(replace(at, state=state), replace(step, base=stage.base), steps)
        for instruction in at.state.instructions:
            seen = len(at.state.warnings)
            state, step = at.state.apply(instruction)
            for finding in state.warnings[seen:]:
                self._build.emit(warning(finding))
            at = replace(at, state=state)
            if not isinstance(step, MetaStep):
                at = await self._step(at, step, steps)
        return at

    async def _keyed(self, at: StageResult, step: Step) -> Keyed:
        build = self._build
        keyed = await self._solver.executor.key(build, at, step, self)
        if build.request.latest_ns is None:
            return keyed
        return replace(keyed, key=key_of("latest", keyed.key, build.request.latest_ns))

    async def _step(self, at: StageResult, step: Step, steps: Steps) -> StageResult:
        build, executor = self._build, self._solver.executor
        steps.begin(step.text, step.span)
        try:
            keyed = await self._keyed(at, step)
            made = _Made(lambda: executor.execute(build, at, step, keyed, self, steps.log))
            if (origin := build.known.get(keyed.key)) is not None:
                made.restore = lambda: self._solver.restore(build, keyed.key, origin, at.snapshot_id, step.text)
            snapshot, cached = await self._solver.snapshot(build, keyed.key, made)
        except ShoalError as error:
            steps.end(error=str(error))
            raise placed(error, step.span, build) from error
        steps.end(cached=cached or made.restored)
        layer = build.made[keyed.key] = StepLayer(keyed.key, snapshot)
        if at.state.index in self._exported:
            self._solver.begin_packing(layer, self._build.lease)
        return replace(at, key=keyed.key, snapshot_id=snapshot, layers=(*at.layers, layer))


class _Missing(ShoalError):
    """What comes next is not in the cache."""

    def __init__(self) -> None:
        super().__init__("not in the cache")


class DryRun(_Run):
    """Counts what is there. A stage that is not there as a whole ends, and with it those that need it."""

    def __init__(self, solver: Solver, build: Build) -> None:
        super().__init__(solver, build)
        self.cached = 0

    async def _run_stage(self, index: int) -> StageResult:
        try:
            return await super()._run_stage(index)
        except (ShoalError, OSError):  # a context may be without its files
            return _NOTHING

    async def _image(self, reference: str, platform: Platform) -> Image:
        # In the stage's own task: what fails ends the stage, not the others.
        return await self._solver.find_image(reference, platform, self._build)

    async def _needed(self, index: int) -> StageResult:
        found = await super()._needed(index)
        if found is _NOTHING:
            raise _Missing
        return found

    async def _step(self, at: StageResult, step: Step, steps: Steps) -> StageResult:
        keyed = await self._keyed(at, step)
        snapshot = self._solver.cached(self._build, keyed.key, touch=False)
        if snapshot is None:
            raise _Missing
        self.cached += 1
        return replace(at, key=keyed.key, snapshot_id=snapshot, layers=(*at.layers, StepLayer(keyed.key, snapshot)))


class _Made:
    """Makes a step's snapshot: from a registry where one has it, else by doing the step."""

    def __init__(self, execute: Callable[[], Awaitable[str]]) -> None:
        self._execute = execute
        self.restore: Callable[[], Awaitable[str | None]] | None = None
        self.restored = False

    async def __call__(self) -> str:
        found = await self.restore() if self.restore is not None else None
        self.restored = found is not None
        return found if found is not None else await self._execute()


def _chain(plan: BuildPlan) -> set[int]:
    """The stages whose layers the result has: the target and those that it starts from."""
    chain = {plan.target}
    base = plan.stages[plan.target].base
    while isinstance(base, StageBase):
        chain.add(base.index)
        base = plan.stages[base.index].base
    return chain


def config_object(image: Image) -> dict[str, Any]:
    """The `config` object of an image's configuration as plain JSON values."""
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(image.config.defaults)
    return plain


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that stopped the build: not a cancellation that followed from it."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [errors]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((e for e in flat if isinstance(e, ShoalError)), flat[0])
