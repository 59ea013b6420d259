"""How an image was built: the predicate of SLSA provenance, v0.2 or v1, as BuildKit fills it.

Fields are those of BuildKit's docs/attestations/slsa-definitions.md, with their meaning. shoal has no LLB: the steps of
mode=max are in `buildConfig.steps`, an extension, and not in `buildConfig.llbDefinition`.
https://slsa.dev/spec/v0.2/provenance, https://slsa.dev/spec/v1.1/provenance
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field

from shoal.platform import Platform
from shoald.attest.materials import Material, without_login
from shoald.version import version

MAX_SOURCE = 1 << 20
"""Bytes of a Dockerfile that are kept."""

_BUILDKIT = "https://mobyproject.org/buildkit@v1"
BUILD_TYPES = {
    "v0.2": _BUILDKIT,
    "v1": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
}
PREDICATE_TYPES = {"v0.2": "https://slsa.dev/provenance/v0.2", "v1": "https://slsa.dev/provenance/v1"}


class Mode(StrEnum):
    """How much is told. MIN: no build arguments, labels, secrets, agents, steps and source."""

    MIN = "min"
    MAX = "max"


class Version(StrEnum):
    """Which version of the predicate."""

    V02 = "v0.2"
    V1 = "v1"

    @property
    def predicate_type(self) -> str:
        """As the statement names it."""
        return PREDICATE_TYPES[self]


class Step(Struct, frozen=True, kw_only=True):
    """A step that was built: its text as the Dockerfile has it, not expanded, and its lines, 1-based and inclusive."""

    stage: str
    text: str
    start_line: int
    end_line: int


class BuildFacts(Struct, frozen=True, kw_only=True):
    """What is known of a build. No field holds the value of a secret."""

    invocation_id: str
    """The request's id: equal for the platforms of one build."""
    started: datetime
    finished: datetime
    builder_platform: Platform
    builder_id: str = ""
    """A URI that says who built, when the caller gave one."""
    dockerfile_name: str = "Dockerfile"
    dockerfile: bytes = b""
    context: str = ""
    """The URL of a remote context (git or http), "" for files of the client. A login in it is hidden."""
    context_digest: Mapping[str, str] = field(default_factory=dict)
    """Of a remote context, by algorithm: {"sha1": COMMIT} for git, {"sha256": HEX} for an archive."""
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    """Other parameters by BuildKit's names, told in both modes: "no-cache" (""), "force-network-mode" ("none"),
    "add-hosts" ("a=1.2.3.4"), "context:NAME" ("docker-image://..."). Logins in URLs are hidden. The platform and the
    places of caches do not belong here: they are a host's."""
    locals: tuple[str, ...] = ()
    """Names of the contexts that are files of the client: "context" is the main one."""
    secrets: tuple[str, ...] = ()
    """Ids, never values."""
    ssh: tuple[str, ...] = ()
    """Ids of forwarded agents."""
    materials: tuple[Material, ...] = ()
    steps: tuple[Step, ...] = ()
    network: bool = True
    """Whether a step could reach a network: any RUN without --network=none."""
    reproducible: bool = False
    """What the caller claims."""


def provenance(facts: BuildFacts, *, mode: Mode = Mode.MIN, slsa: Version = Version.V02) -> bytes:
    """The predicate, JSON. The same facts give the same bytes."""
    document = _v1(facts, mode) if slsa is Version.V1 else _v02(facts, mode)
    return msgspec.json.encode(document, order="deterministic")


def _v02(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    document: dict[str, Any] = {
        "builder": {"id": facts.builder_id},
        "buildType": BUILD_TYPES["v0.2"],
        "materials": [material.document() for material in _materials(facts)],
        "invocation": {
            "configSource": _config_source(facts, "entryPoint"),
            "parameters": _parameters(facts, mode),
            "environment": {"platform": str(facts.builder_platform)},
        },
        "metadata": {
            "buildInvocationID": facts.invocation_id,
            "buildStartedOn": _time(facts.started),
            "buildFinishedOn": _time(facts.finished),
            "completeness": {
                "parameters": _tells_parameters(facts, mode),
                "environment": True,
                "materials": _complete(facts),
            },
            "reproducible": facts.reproducible,
            f"{_BUILDKIT}#metadata": _metadata(facts, mode),
        },
    }
    if _hermetic(facts):
        document["metadata"][f"{_BUILDKIT}#hermetic"] = True
    if mode is Mode.MAX:
        document["buildConfig"] = _build_config(facts)
    return document


def _v1(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    internal: dict[str, Any] = {"builderPlatform": str(facts.builder_platform)}
    if mode is Mode.MAX:
        internal["buildConfig"] = _build_config(facts)
    metadata: dict[str, Any] = {
        "invocationID": facts.invocation_id,
        "startedOn": _time(facts.started),
        "finishedOn": _time(facts.finished),
        "buildkit_metadata": _metadata(facts, mode),
        "buildkit_completeness": {
            "request": _tells_parameters(facts, mode),
            "resolvedDependencies": _complete(facts),
        },
    }
    metadata |= {"buildkit_hermetic": True} if _hermetic(facts) else {}
    metadata |= {"buildkit_reproducible": True} if facts.reproducible else {}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPES["v1"],
            "externalParameters": {
                "configSource": _config_source(facts, "path"),
                "request": _parameters(facts, mode),
            },
            "internalParameters": internal,
            "resolvedDependencies": [material.document() for material in _materials(facts)],
        },
        "runDetails": {"builder": {"id": facts.builder_id, "version": {"shoal": version()}}, "metadata": metadata},
    }


def _config_source(facts: BuildFacts, path: str) -> dict[str, Any]:
    document: dict[str, Any] = {path: facts.dockerfile_name}
    if facts.context:
        document |= {"uri": without_login(facts.context), "digest": dict(facts.context_digest)}
    return document


def _parameters(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    """What BuildKit calls the request. The platform is left out, as there: the subject has it."""
    arguments = {key: without_login(value) for key, value in facts.options.items()}
    if facts.target:
        arguments["target"] = facts.target
    document: dict[str, Any] = {"frontend": "dockerfile.v0", "args": arguments}
    if facts.locals:
        document["locals"] = [{"name": name} for name in sorted(set(facts.locals))]
    if mode is Mode.MAX:
        # Proxies are the arguments that hold logins by their nature.
        arguments |= {f"build-arg:{key}": _argument(key, value) for key, value in facts.build_args.items()}
        arguments |= {f"label:{key}": value for key, value in facts.labels.items()}
        document |= {"secrets": [{"id": each} for each in sorted(set(facts.secrets))]} if facts.secrets else {}
        document |= {"ssh": [{"id": each} for each in sorted(set(facts.ssh))]} if facts.ssh else {}
    return document


def _argument(key: str, value: str) -> str:
    return without_login(value) if key.lower().endswith("_proxy") else value


def _materials(facts: BuildFacts) -> list[Material]:
    return sorted(set(facts.materials), key=lambda each: (each.uri, each.algorithm, each.hex))


def _tells_parameters(facts: BuildFacts, mode: Mode) -> bool:
    return mode is Mode.MAX or not (facts.build_args or facts.labels)


def _complete(facts: BuildFacts) -> bool:
    """Files of a client are not to be had again."""
    return not facts.locals


def _hermetic(facts: BuildFacts) -> bool:
    return _complete(facts) and not facts.network


def _metadata(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    if mode is Mode.MIN or not facts.dockerfile:
        return {}
    info = {
        "filename": facts.dockerfile_name,
        "language": "Dockerfile",
        "data": base64.b64encode(facts.dockerfile[:MAX_SOURCE]).decode(),
    }
    locations = {f"step{number}": {"locations": [_location(step)]} for number, step in enumerate(facts.steps)}
    return {"source": {"infos": [info], "locations": locations}}


def _location(step: Step) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": step.start_line}, "end": {"line": step.end_line}}]}


def _build_config(facts: BuildFacts) -> dict[str, Any]:
    steps = [
        {"id": f"step{number}", "stage": step.stage, "instruction": step.text}
        for number, step in enumerate(facts.steps)
    ]
    return {"steps": steps}


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
