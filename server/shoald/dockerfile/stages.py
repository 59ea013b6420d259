"""Instructions -> stages, the build arguments of the global scope, and the checks of the file as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.errors import InvalidArgument
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.checks import Finding, finding
from shoald.dockerfile.errors import DockerfileError, Span, nearest
from shoald.dockerfile.expand import Expansion, expand
from shoald.dockerfile.parse import instruction
from shoald.dockerfile.source import Source

PROXY_ARGS = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"})
"""Build arguments, in any case, that RUN sees without an ARG and that are in no cache key."""
_RESERVED = frozenset({"context", "scratch"})


@dataclass(frozen=True, slots=True)
class StageSource:
    """One stage as written."""

    index: int
    from_: ins.From
    instructions: tuple[ins.Instruction, ...]

    @property
    def label(self) -> str:
        """The stage's name, or `stage-N`."""
        return self.from_.name or f"stage-{self.index}"


def split(source: Source) -> tuple[tuple[ins.Arg, ...], tuple[StageSource, ...]]:
    """The ARGs before the first FROM, and the stages. Raises DockerfileError."""
    arguments: list[ins.Arg] = []
    stages: list[tuple[ins.From, list[ins.Instruction]]] = []
    for node in source.nodes:
        each = instruction(node)
        if isinstance(each, ins.From):
            stages.append((each, []))
        elif stages:
            stages[-1][1].append(each)
        elif isinstance(each, ins.Arg):
            arguments.append(each)
        else:
            hint = "begin the Dockerfile with FROM"
            raise DockerfileError("no build stage in current context", span=each.span, hint=hint)
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build", hint="begin the Dockerfile with FROM")
    return tuple(arguments), tuple(StageSource(at, from_, tuple(body)) for at, (from_, body) in enumerate(stages))


def platform_args(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The predefined arguments of the global scope, such as TARGETPLATFORM and BUILDARCH."""
    args: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        args |= {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}OSVERSION": "",
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
        }
    return args | {"TARGETSTAGE": stage or "default"}


def global_args(
    predefined: Mapping[str, str], arguments: Sequence[ins.Arg], build_args: Mapping[str, str], escape: str
) -> dict[str, str]:
    """The values of the global scope: what FROM may use, and the defaults of ARGs that stages declare bare."""
    values = dict(predefined) | {name: build_args[name] for name in predefined if name in build_args}
    for argument in arguments:
        for name, default in argument.args:
            if name in build_args:
                values[name] = build_args[name]
            elif default is not None:
                values[name] = expand_at(default, values, argument.span, escape).text
    return values


def expand_at(word: str, env: Mapping[str, str], span: Span, escape: str) -> Expansion:
    """Expand a word of the instruction at `span`. Raises DockerfileError with that place."""
    try:
        return expand(word, env, escape=escape)
    except DockerfileError as e:
        raise e.place(span) from None


def unused_build_args(
    arguments: Sequence[ins.Arg], stages: Sequence[StageSource], given: Mapping[str, str], predefined: Mapping[str, str]
) -> list[str]:
    """The build arguments that no ARG of these stages or of the global scope declares, sorted."""
    declared = {name for argument in arguments for name, _ in argument.args} | set(predefined) | {"SOURCE_DATE_EPOCH"}
    for stage in stages:
        declared |= {name for each in stage.instructions if isinstance(each, ins.Arg) for name, _ in each.args}
        if any(isinstance(each, ins.Onbuild) and "ARG" in each.trigger.upper() for each in stage.instructions):
            return []
    return sorted(
        name
        for name in given
        if name not in declared and name.lower() not in PROXY_ARGS and not name.startswith("BUILDKIT_")
    )


def file_findings(stages: Sequence[StageSource]) -> list[Finding]:
    """The checks of stage names, keywords' casing and deprecated instructions."""
    return [*_name_findings(stages), *_casing_findings(stages)]


def description_findings(source: Source) -> list[Finding]:
    """Comments above a named stage or an ARG that do not begin with its name (InvalidDefinitionDescription)."""
    found: list[Finding] = []
    for node in source.nodes:
        if not node.comment:
            continue
        names = [word.partition("=")[0] for word in node.args] if node.keyword == "ARG" else list(node.args[2:3])
        if names and node.comment.split(" ")[0] not in names:
            shown = names[0] if len(names) == 1 else "<arg_key>"
            message = f"Comment for {node.keyword} should follow the format: `# {shown} <description>`"
            found.append(finding("InvalidDefinitionDescription", message, node.span))
    return found


def _name_findings(stages: Sequence[StageSource]) -> list[Finding]:
    found: list[Finding] = []
    seen: set[str] = set()
    for stage in stages:
        from_ = stage.from_
        if from_.name_spelled != from_.name:
            message = f"Stage name '{from_.name_spelled}' should be lowercase"
            found.append(finding("StageNameCasing", message, from_.span))
        if from_.as_spelled and _case(from_.spelled) not in {"mixed", _case(from_.as_spelled)}:
            message = f"'{from_.as_spelled}' and '{from_.spelled}' keywords' casing do not match"
            found.append(finding("FromAsCasing", message, from_.span))
        if from_.name in _RESERVED:
            message = f'Stage name should not use the same name as reserved stage "{from_.name}"'
            found.append(finding("ReservedStageName", message, from_.span))
        if from_.name and from_.name in seen:
            message = f'Duplicate stage name "{from_.name}", stage names should be unique'
            found.append(finding("DuplicateStageName", message, from_.span))
        seen.add(from_.name)
    return found


def _case(word: str) -> str:
    return "lower" if word.islower() else "upper" if word.isupper() else "mixed"


def _casing_findings(stages: Sequence[StageSource]) -> list[Finding]:
    everything = [each for stage in stages for each in (stage.from_, *stage.instructions)]
    cases = [_case(each.spelled) for each in everything]
    lower = cases.count("lower") > cases.count("upper")
    wanted, name = ("lower", "lowercase") if lower else ("upper", "uppercase")
    found = [
        finding(
            "ConsistentInstructionCasing",
            f"Command '{each.spelled}' should match the case of the command majority ({name})",
            each.span,
        )
        for each, case in zip(everything, cases, strict=True)
        if case != wanted
    ]
    deprecated = "Maintainer instruction is deprecated in favor of using label"
    found += [
        finding("MaintainerDeprecated", deprecated, each.span)
        for each in everything
        if isinstance(each, ins.Maintainer)
    ]
    return found


def from_findings(
    stage: StageSource, base: Expansion, platform: Expansion | None, values: Mapping[str, str], known: frozenset[str]
) -> list[Finding]:
    """The checks of one FROM: undeclared arguments, and a platform that is constant or the default anyway."""
    span, found = stage.from_.span, []
    for name in sorted((base.unmatched | (platform.unmatched if platform else frozenset())) - known):
        suggestion = nearest(name, known)
        tail = f" (did you mean {suggestion}?)" if suggestion else ""
        found.append(finding("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{tail}", span))
    if platform is None:
        return found
    if platform.matched == {"TARGETPLATFORM"} and not platform.unmatched and platform.text == values["TARGETPLATFORM"]:
        message = f"Setting platform to predefined {stage.from_.platform} in FROM is redundant"
        found.append(finding("RedundantTargetPlatform", f"{message} as this is the default behavior", span))
    if not platform.matched and not platform.unmatched:
        parts = platform.text.split("/")
        if not any(part and part in stage.from_.name for part in parts[:2]):
            message = f'FROM --platform flag should not use constant value "{platform.text}"'
            found.append(finding("FromPlatformFlagConstDisallowed", message, span))
    return found


def default_base_findings(
    stages: Sequence[StageSource], predefined: Mapping[str, str], arguments: Sequence[ins.Arg], escape: str
) -> list[Finding]:
    """FROMs whose base is empty or no valid reference when no build argument is given (InvalidDefaultArgInFrom)."""
    found: list[Finding] = []
    try:
        values = global_args(predefined, arguments, {}, escape)
        for stage in stages:
            base = expand_at(stage.from_.base, values, stage.from_.span, escape).text
            if not is_reference(base):
                message = f"Default value for ARG {stage.from_.base} results in empty or invalid base image name"
                found.append(finding("InvalidDefaultArgInFrom", message, stage.from_.span))
    except DockerfileError:
        return found  # the build fails on it anyway, or a build argument mends it
    return found


def is_reference(text: str) -> bool:
    """Whether `text` is a valid image reference."""
    try:
        Reference.parse(text)
    except InvalidArgument:
        return False
    return True
