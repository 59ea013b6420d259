"""Golden cases of the Dockerfile language: tests/golden/dockerfile/<case>/{Dockerfile,expected.json,request.json}.

`request.json` (optional) holds build_args, target, labels, contexts and `images`: the OCI config of base images by
reference. With SHOAL_UPDATE_GOLDEN=1 the expectations are written anew; read the difference before keeping it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from shoal.platform import Platform
from shoald.dockerfile.checks import Finding
from shoald.dockerfile.errors import DockerfileError
from shoald.dockerfile.graph import BuildPlan, plan
from shoald.dockerfile.state import StageState
from shoald.dockerfile.steps import ImageBase, MetaStep, StageBase

CASES = Path(__file__).parent.parent / "golden" / "dockerfile"


def _cases() -> list[str]:
    return sorted(path.name for path in CASES.iterdir() if path.is_dir())


@pytest.mark.parametrize("case", _cases())
def test_golden(case: str) -> None:
    directory = CASES / case
    request_file = directory / "request.json"
    request = json.loads(request_file.read_text()) if request_file.exists() else {}
    found = _evaluate((directory / "Dockerfile").read_bytes(), request)
    expected_file = directory / "expected.json"
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        expected_file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    assert found == json.loads(expected_file.read_text())


def test_there_are_cases() -> None:
    assert len(_cases()) >= 25


def _evaluate(text: bytes, request: Mapping[str, Any]) -> dict[str, Any]:
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


def _plain(value: Any) -> Any:
    """A value as JSON, without what is empty, so that the expectations can be read."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kept = {k: v for k, v in members.items() if v is not None and v is not False and v not in ("", [], {})}
        is_base = type(value).__name__.endswith(("Base", "Source"))
        return {"is": type(value).__name__, **kept} if is_base else kept
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
