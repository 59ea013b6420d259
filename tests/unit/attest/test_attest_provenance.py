"""Provenance: golden predicates of both versions and modes, what each leaves out, and that no login is told."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shoal.digest import Digest
from shoal.platform import Platform
from shoald.attest.materials import Material, context_material, git_material, http_material, image_material
from shoald.attest.provenance import BuildFacts, Mode, Step, Version, provenance
from shoald.version import version

GOLDEN = Path(__file__).parents[2] / "golden" / "attest"
AMD64 = Platform.parse("linux/amd64")
DOCKERFILE = b"FROM alpine:3.19 AS base\nRUN --network=none make\n"

FACTS = BuildFacts(
    invocation_id="0b5e9c1e",
    started=datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=UTC),
    finished=datetime(2026, 1, 2, 3, 5, tzinfo=UTC),
    builder_platform=AMD64,
    dockerfile=DOCKERFILE,
    dockerfile_name="docker/Dockerfile",
    target="base",
    build_args={"VERSION": "1", "HTTP_PROXY": "http://me:secret@proxy:3128"},
    labels={"org.example": "x"},
    options={"no-cache": "", "context:lib": "https://me:secret@example.org/lib.git"},
    locals=("dockerfile", "context"),
    secrets=("token",),
    ssh=("default",),
    materials=(
        image_material("alpine:3.19", Digest.of(b"alpine"), AMD64),
        git_material("https://me:secret@example.org/lib.git", "4b220de5058abfd01ff619c9d2ff6b09a049bea0"),
        http_material("https://example.org/a.tar.gz", Digest.of(b"a")),
        context_material("context", Digest.of(b"files")),
    ),
    steps=(
        Step(stage="base", text="FROM alpine:3.19 AS base", start_line=1, end_line=1),
        Step(stage="base", text="RUN --network=none make", start_line=2, end_line=2),
    ),
    network=False,
)


def predicate(facts: BuildFacts = FACTS, mode: Mode = Mode.MIN, slsa: Version = Version.V02) -> dict[str, Any]:
    made = provenance(facts, mode=mode, slsa=slsa)
    assert made == provenance(facts, mode=mode, slsa=slsa)
    return json.loads(made)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("slsa", list(Version))
def test_golden(mode: Mode, slsa: Version) -> None:
    text = json.dumps(predicate(FACTS, mode, slsa), indent=2).replace(f'"{version()}"', '"VERSION"') + "\n"
    path = GOLDEN / f"provenance-{slsa}-{mode}.json"
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "SHOAL_UPDATE_GOLDEN=1 writes it; read the difference"
    assert "secret@" not in text
    assert base64.b64encode(DOCKERFILE).decode() in text or mode is Mode.MIN


def test_what_min_leaves_out() -> None:
    text = provenance(FACTS, mode=Mode.MIN).decode() + provenance(FACTS, mode=Mode.MIN, slsa=Version.V1).decode()
    for word in ("VERSION", "org.example", "token", "ssh", "make", "buildConfig", "source"):
        assert f'"{word}' not in text
        assert f":{word}" not in text
    made = predicate()
    assert made["invocation"]["parameters"]["args"] == {
        "no-cache": "",
        "context:lib": "https://xxxxx@example.org/lib.git",
        "target": "base",
    }
    assert made["metadata"]["completeness"] == {"parameters": False, "environment": True, "materials": False}


def test_nothing_is_left_out_where_there_is_nothing() -> None:
    bare = BuildFacts(invocation_id="1", started=FACTS.started, finished=FACTS.finished, builder_platform=AMD64)
    made = predicate(bare)
    assert made["metadata"]["completeness"] == {"parameters": True, "environment": True, "materials": True}
    assert made["invocation"]["parameters"] == {"frontend": "dockerfile.v0", "args": {}}
    assert made["materials"] == []


def test_a_remote_context() -> None:
    facts = replace(
        FACTS,
        context="https://me:secret@example.org/app.git#main",
        context_digest={"sha1": "a" * 40},
        locals=(),
        network=False,
        reproducible=True,
        builder_id="https://ci.example.org/1",
    )
    made = predicate(facts)
    assert made["invocation"]["configSource"] == {
        "uri": "https://xxxxx@example.org/app.git#main",
        "digest": {"sha1": "a" * 40},
        "entryPoint": "docker/Dockerfile",
    }
    assert made["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] is True
    assert made["metadata"]["reproducible"] is True
    assert made["builder"] == {"id": "https://ci.example.org/1"}
    v1 = predicate(facts, slsa=Version.V1)
    assert v1["buildDefinition"]["externalParameters"]["configSource"]["path"] == "docker/Dockerfile"
    assert v1["runDetails"]["metadata"]["buildkit_hermetic"] is True
    assert v1["runDetails"]["metadata"]["buildkit_reproducible"] is True
    networked = predicate(replace(facts, network=True))
    assert "https://mobyproject.org/buildkit@v1#hermetic" not in networked["metadata"]


def test_both_versions_tell_the_same() -> None:
    old, new = predicate(FACTS, Mode.MAX), predicate(FACTS, Mode.MAX, Version.V1)
    definition, run = new["buildDefinition"], new["runDetails"]
    assert definition["resolvedDependencies"] == old["materials"]
    assert definition["externalParameters"]["request"] == old["invocation"]["parameters"]
    assert definition["internalParameters"]["buildConfig"] == old["buildConfig"]
    assert run["metadata"]["buildkit_metadata"] == old["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]
    assert run["metadata"]["startedOn"] == old["metadata"]["buildStartedOn"] == "2026-01-02T03:04:05.600000Z"


def test_materials() -> None:
    assert image_material("busybox", Digest.of(b"x"), AMD64) == Material(
        "pkg:docker/busybox@latest?platform=linux%2Famd64", "sha256", Digest.of(b"x").hex
    )
    assert git_material("https://e.org/a", "a" * 64).algorithm == "sha256"
    twice = replace(FACTS, materials=(FACTS.materials[0], *reversed(FACTS.materials)))
    assert predicate(twice)["materials"] == predicate()["materials"]
    assert Material("https://e.org/x").document() == {"uri": "https://e.org/x"}
