"""Golden cases of the Dockerfile language: tests/golden/dockerfile/<case>/{Dockerfile,expected.json,request.json}.

`request.json` (optional) holds build_args, target, labels, contexts and `images`: the OCI config of base images by
reference. With SHOAL_UPDATE_GOLDEN=1 the expectations are written anew; read the difference before keeping it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shoald.dockerfile.mounts import TYPES
from shoald.dockerfile.source import KEYWORDS
from tests.support.dockerfile_plan import evaluate

_FLAGS = """
platform mount network security device from chown chmod link parents exclude checksum keep-git-dir interval retries
"""
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


def test_real_files_are_covered() -> None:
    """The cases `like-...` are modelled on well-known public Dockerfiles: between them they have the language."""
    cases = [name for name in _cases() if name.startswith("like-")]
    assert len(cases) >= 40
    text = "\n".join((CASES / name / "Dockerfile").read_text() for name in cases)
    wanted = {*(KEYWORDS - {"MAINTAINER"}), *(f"type={kind}" for kind in TYPES)}
    wanted |= {f"--{flag}" for flag in _FLAGS.split()}
    assert {word for word in wanted if word not in text} == set()
    failing = [name for name in cases if "error" in json.loads((CASES / name / "expected.json").read_text())]
    assert failing == []
