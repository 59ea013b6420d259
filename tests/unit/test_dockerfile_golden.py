"""Golden cases of the Dockerfile language: tests/golden/dockerfile/<case>/{Dockerfile,expected.json,request.json}.

`request.json` (optional) holds build_args, target, labels, contexts and `images`: the OCI config of base images by
reference. With SHOAL_UPDATE_GOLDEN=1 the expectations are written anew; read the difference before keeping it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.dockerfile_plan import evaluate

CASES = Path(__file__).parent.parent / "golden" / "dockerfile"


def _cases() -> list[str]:
    return sorted(path.name for path in CASES.iterdir() if path.is_dir())


@pytest.mark.parametrize("case", _cases())
def test_golden(case: str) -> None:
    directory = CASES / case
    request_file = directory / "request.json"
    request = json.loads(request_file.read_text()) if request_file.exists() else {}
    found = evaluate((directory / "Dockerfile").read_bytes(), request)
    expected_file = directory / "expected.json"
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        expected_file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    assert found == json.loads(expected_file.read_text())


def test_there_are_cases() -> None:
    assert len(_cases()) >= 25
