"""What a Dockerfile and a request come to, as JSON: plan, steps, configuration and warnings; no root, no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from shoal.platform import Platform
from shoald.dockerfile.checks import Finding
from shoald.dockerfile.errors import DockerfileError
from shoald.dockerfile.graph import BuildPlan, plan
from shoald.dockerfile.state import StageState
from shoald.dockerfile.steps import DEFAULT_HOSTNAME, ImageBase, MetaStep, StageBase


def evaluate(text: bytes, request: Mapping[str, Any]) -> dict[str, Any]:
    """`request` holds build_args, target, labels, contexts, platform, and `images`: OCI configs by reference."""
    try:
        made = plan(
            text,
            target_platform=Platform.parse(request.get("platform", "linux/arm64")),
            build_platform=Platform.parse("linux/amd64"),
            build_args=request.get("build_args"),
            target=request.get("target"),
            labels=request.get("labels"),
            contexts=request.get("contexts", ()),
        )
        return _run(made, request.get("images", {}))
    except DockerfileError as e:
        return {"error": {"message": e.message, "reason": e.reason, **e.metadata}}


def _run(made: BuildPlan, images: Mapping[str, Any]) -> dict[str, Any]:
    states: dict[int, StageState] = {}
    stages: dict[str, Any] = {}
    warnings = [*map(_warning, made.warnings)]
    for index in made.needed:
        stage = made.stages[index]
        if isinstance(stage.base, StageBase):
            state = StageState.start_from(made, index, states[stage.base.index])
        else:
            reference = stage.base.reference if isinstance(stage.base, ImageBase) else ""
            state = StageState.start(made, index, images.get(reference))
        steps = []
        for instruction in state.instructions:
            state, step = state.apply(instruction)
            if not isinstance(step, MetaStep):
                steps.append({"step": type(step).__name__, **_plain(step)})
        states[index] = state
        warnings += map(_warning, state.warnings)
        stages[stage.label] = {"base": _plain(stage.base), "platform": str(made.platform_of(index)), "steps": steps}
    final = states[made.target]
    made.enforce_checks([*made.warnings, *(f for state in states.values() for f in state.warnings)])
    return {
        "images": [f"{reference} {platform}" for reference, platform in made.images()],
        "stages": stages,
        "config": final.image_config().to_oci(),
        "history": [("" if h.empty_layer else "+ ") + h.created_by for h in final.history],
        "warnings": warnings,
    }


def _warning(found: Finding) -> str:
    place = f"{found.start_line}-{found.end_line} " if found.start_line else ""
    return f"{place}{found.rule}: {found.message}"


def _usual(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {}, DEFAULT_HOSTNAME)


def _plain(value: Any) -> Any:
    """A value as JSON, without what is empty."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kept = {k: v for k, v in members.items() if not _usual(v)}
        is_base = type(value).__name__.endswith(("Base", "Source"))
        return {"is": type(value).__name__, **kept} if is_base else kept
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
