"""A Dockerfile and a request -> the stages to build, in order, with what each depends on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shoal.errors import InvalidArgument
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.dockerfile import instructions as ins
from shoald.dockerfile import stages as st
from shoald.dockerfile.checks import CheckOptions, Finding
from shoald.dockerfile.errors import DockerfileError, Span, did_you_mean
from shoald.dockerfile.expand import expand
from shoald.dockerfile.gotext import quote
from shoald.dockerfile.mounts import mount_source
from shoald.dockerfile.source import read
from shoald.dockerfile.stages import PROXY_ARGS, StageSource
from shoald.dockerfile.steps import Base, ContextBase, ImageBase, ScratchBase, StageBase

_FROM_VARIABLE = (
    "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a "
    "workaround"
)

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""A build argument in place of `# check=`."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: `name` is "" when it has none, `label` is what to show; `platform` only where FROM gives one."""

    index: int
    name: str
    base: Base
    platform: Platform | None
    instructions: tuple[ins.Instruction, ...]
    span: Span
    text: str

    @property
    def label(self) -> str:
        """The name, or `stage-N`."""
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What to build. `needed` are the stages that the target takes, each after those that it depends on."""

    stages: tuple[StagePlan, ...]
    target: int
    needed: tuple[int, ...]
    warnings: tuple[Finding, ...]
    target_platform: Platform
    build_platform: Platform
    escape: str = "\\"
    filename: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    global_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, Base] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)
    """Stage names to indices; of two stages with one name the last counts."""
    checks: CheckOptions = field(default_factory=CheckOptions)

    @property
    def proxy_env(self) -> dict[str, str]:
        """The proxy variables for RUN, in both cases; not part of any cache key."""
        proxies = {n.lower(): v for n, v in sorted(self.build_args.items()) if n.lower() in PROXY_ARGS}
        return {spelled: value for name, value in proxies.items() for spelled in (name.upper(), name)}

    def platform_of(self, index: int) -> Platform:
        """The platform that a stage runs on: its FROM's, its base stage's, or the target platform."""
        stage = self.stages[index]
        while stage.platform is None and isinstance(stage.base, StageBase):
            stage = self.stages[stage.base.index]
        return stage.platform or self.target_platform

    def dependencies(self, index: int) -> tuple[int, ...]:
        """The stages that a stage depends on, sorted: its base, and where COPY and mounts take files from."""
        stage = self.stages[index]
        bases = (stage.base, *(base for _, base in self.origins(stage.instructions)))
        return tuple(sorted({base.index for base in bases if isinstance(base, StageBase)}))

    def images(self) -> tuple[tuple[str, Platform], ...]:
        """The images that the needed stages start from or copy from, each with its platform, in order of use."""
        found: dict[tuple[str, Platform], None] = {}
        for index in self.needed:
            stage = self.stages[index]
            if isinstance(stage.base, ImageBase):
                found[stage.base.reference, self.platform_of(index)] = None
            for _, base in self.origins(stage.instructions):
                if isinstance(base, ImageBase):
                    found[base.reference, self.target_platform] = None
        return tuple(found)

    def origins(self, instructions: Iterable[ins.Instruction]) -> list[tuple[ins.Instruction, Base]]:
        """Where COPY --from and RUN --mount=from of these instructions take files from. Raises DockerfileError."""
        found: list[tuple[ins.Instruction, Base]] = []
        for each in instructions:
            if isinstance(each, ins.Copy) and each.from_:
                found.append((each, self.copy_base(each)))
            elif isinstance(each, ins.Run):
                names = filter(None, map(mount_source, each.mounts))
                found += [(each, self.base_of(name, each.span)) for name in names]
        return found

    def copy_base(self, copy: ins.Copy) -> Base:
        """Where a COPY takes its files from. Raises DockerfileError (DOCKERFILE_STAGE)."""
        name = copy.from_
        if not name:
            return ContextBase()
        if "$" in name and expand(name, {}, escape=self.escape).text != name:
            raise DockerfileError(_FROM_VARIABLE, span=copy.span, reason="DOCKERFILE_STAGE")
        if name.isascii() and name.removeprefix("-").isdigit() and len(name) < 10:
            if not 0 <= int(name) < len(self.stages):
                raise DockerfileError(f"invalid stage index {int(name)}", span=copy.span, reason="DOCKERFILE_STAGE")
            return StageBase(int(name))
        return self.base_of(name, copy.span)

    def base_of(self, name: str, span: Span) -> Base:
        """A stage by name, else a named context, `scratch`, or an image. Raises DockerfileError."""
        index = self.names.get(name.lower())
        return StageBase(index) if index is not None else _external(name, self.contexts, span)

    def enforce_checks(self, findings: Iterable[Finding]) -> None:
        """Raise DockerfileError (DOCKERFILE_CHECKS) for findings when the file says `# check=error=true`."""
        try:
            self.checks.enforce(findings)
        except DockerfileError as e:
            raise e.place(Span(), self.filename) from None

    def check_order(self, index: int, instructions: Iterable[ins.Instruction]) -> None:
        """Refuse instructions of the stage `index` that take files from a stage that is not before it."""
        for each, base in self.origins(instructions):
            if isinstance(base, StageBase) and base.index >= index:
                verb, source = "mount", self.stages[base.index].label
                if isinstance(each, ins.Copy):
                    verb, source = "copy", each.from_
                label = self.stages[index].label
                problem = f"it needs to be defined before current stage {quote(label)}"
                message = f"cannot {verb} from stage {quote(source)}, {problem}"
                raise DockerfileError(message, span=each.span, reason="DOCKERFILE_STAGE")


def plan(
    text: bytes,
    *,
    target_platform: Platform,
    build_platform: Platform,
    build_args: Mapping[str, str] | None = None,
    target: str | None = None,
    labels: Mapping[str, str] | None = None,
    contexts: Mapping[str, Base] | Collection[str] = (),
    filename: str = "Dockerfile",
) -> BuildPlan:
    """Plan the build of `target` (a stage's name; None or "" is the last stage).

    `contexts` are the named contexts, which replace stages and images of that name: where each one's files come from
    (directories, where only names are given). Raises DockerfileError,
    whose metadata name `filename` and the lines.
    """
    bases = contexts if isinstance(contexts, Mapping) else {name: ContextBase(name) for name in contexts}
    try:
        made = _plan(text, target_platform, build_platform, dict(build_args or {}), target or "", bases)
    except DockerfileError as e:
        raise e.place(Span(), filename) from None
    return replace(made, filename=filename, labels=dict(labels or {}))


def _plan(
    text: bytes,
    target_platform: Platform,
    build_platform: Platform,
    build_args: dict[str, str],
    target: str,
    contexts: Mapping[str, Base],
) -> BuildPlan:
    source = read(text)
    arguments, stages = st.split(source)
    predefined = st.platform_args(target_platform, build_platform, target or stages[-1].from_.name)
    values = st.global_args(predefined, arguments, build_args, source.escape)
    checks = source.checks
    if CHECK_ARG in build_args:
        checks = CheckOptions.parse(build_args[CHECK_ARG])
    findings = [*source.warnings, *st.file_findings(stages), *st.description_findings(source)]
    findings += st.default_base_findings(stages, predefined, arguments, source.escape)
    declared = frozenset(values) | {name for argument in arguments for name, _ in argument.args}
    planned, more = _resolve(stages, values, declared, contexts, source.escape)
    made = BuildPlan(
        stages=tuple(planned),
        target=_target(planned, target),
        needed=(),
        warnings=(),
        target_platform=target_platform,
        build_platform=build_platform,
        escape=source.escape,
        build_args=build_args,
        global_args=values,
        contexts=contexts,
        names={stage.name: stage.index for stage in planned if stage.name},
        checks=checks,
    )
    _refuse_circles(made)
    needed = _needed(made)
    unused = st.unused_build_args(arguments, [stages[i] for i in needed], build_args, predefined)
    if unused:
        message = f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed"
        more = [*more, Finding("", message)]
    return replace(made, needed=needed, warnings=checks.select([*findings, *more]))


def _resolve(
    stages: Sequence[StageSource],
    values: Mapping[str, str],
    declared: frozenset[str],
    contexts: Mapping[str, Base],
    escape: str,
) -> tuple[list[StagePlan], list[Finding]]:
    """Expand each FROM; a base is a stage only when it comes before and is written in lower case, as in BuildKit."""
    planned: list[StagePlan] = []
    findings: list[Finding] = []
    by_name: dict[str, int] = {}
    for stage in stages:
        from_ = stage.from_
        base = st.expand_at(from_.base, values, from_.span, escape)
        platform = st.expand_at(from_.platform, values, from_.span, escape) if from_.platform else None
        findings += st.from_findings(stage, base, platform, values, declared)
        if not base.text:
            message = f"base name ({from_.base}) should not be blank"
            raise DockerfileError(message, span=from_.span, reason="DOCKERFILE_STAGE")
        body = stage.instructions
        if from_.name and from_.name in contexts:
            origin = contexts[from_.name]
            body = ()
        elif base.text in by_name:
            origin = StageBase(by_name[base.text])
        else:
            origin = _external(base.text, contexts, from_.span)
        where = None if platform is None else _platform(platform.text, from_)
        planned.append(StagePlan(stage.index, from_.name, origin, where, body, from_.span, from_.text))
        if from_.name:
            by_name[from_.name] = stage.index
    return planned, findings


def _external(name: str, contexts: Mapping[str, Base], span: Span) -> Base:
    if name in contexts:
        return contexts[name]
    if name == "scratch":
        return ScratchBase()
    try:
        Reference.parse(name)
    except InvalidArgument as e:
        message = f"failed to parse stage name {quote(name[:200])}: {e.message}"
        raise DockerfileError(message, span=span, reason="DOCKERFILE_STAGE", hint=e.hint) from None
    return ImageBase(name)


def _platform(text: str, from_: ins.From) -> Platform:
    if not text:
        message = f"empty platform value from expression {from_.platform}"
        raise DockerfileError(message, span=from_.span, reason="DOCKERFILE_STAGE")
    try:
        return Platform.parse(text)
    except InvalidArgument as e:
        message = f"failed to parse platform {from_.platform}: {e.message}"
        raise DockerfileError(message, span=from_.span, reason="DOCKERFILE_STAGE", hint=e.hint) from None


def _target(stages: Sequence[StagePlan], name: str) -> int:
    if not name:
        return len(stages) - 1
    for stage in reversed(stages):
        if stage.name and stage.name == name.lower():
            return stage.index
    names = [stage.name for stage in stages if stage.name]
    message = f"target stage {quote(name[:200])} could not be found{did_you_mean(name, names)}"
    hint = f"the stages are: {', '.join(names[:20])}" if names else "no stage of this Dockerfile has a name"
    raise DockerfileError(message, reason="DOCKERFILE_TARGET", hint=hint)


def _refuse_circles(made: BuildPlan) -> None:
    """Stages that take files from themselves, straight or through others. A base always comes before."""
    edges = {
        stage.index: [(e, b.index) for e, b in made.origins(stage.instructions) if isinstance(b, StageBase)]
        for stage in made.stages
    }
    done: set[int] = set()
    for start in edges:
        path: list[tuple[int, int]] = [(start, 0)]
        while path:
            index, at = path.pop()
            if at == 0 and index in done:
                continue
            if at == len(edges[index]):
                done.add(index)
                continue
            path.append((index, at + 1))
            each, following = edges[index][at]
            if any(following == on_path for on_path, _ in path):
                message = f"circular dependency detected on stage: {made.stages[following].label}"
                raise DockerfileError(message, span=each.span, reason="DOCKERFILE_STAGE")
            if following not in done:
                path.append((following, 0))


def _needed(made: BuildPlan) -> tuple[int, ...]:
    needed: set[int] = set()
    waiting = [made.target]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            made.check_order(index, made.stages[index].instructions)
            waiting += made.dependencies(index)
    return tuple(sorted(needed))
