"""Dockerfiles and what `docker build` makes of them: same files, same config.

Each case of tests/golden/build is a Dockerfile over one context; the JSON beside it was recorded from Docker. Where
Docker is installed the recordings are checked against it, so that they can't lie; SHOAL_UPDATE_GOLDEN=1 writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.build_context import write_context
from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry
from tests.support.dockerd import Dockerd, dockerd_path, running_dockerd
from tests.support.image_tree import Files, exported, pulled

GOLDEN = Path(__file__).parents[1] / "golden" / "build"
CASES = sorted(path.stem for path in GOLDEN.glob("*.Dockerfile"))
KEYS = ("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels", "Volumes", "ExposedPorts", "StopSignal")
KEYS += ("Healthcheck", "OnBuild", "Shell")


def dockerfile(case: str, registry: DockerRegistry) -> str:
    """The case's text; BASE stands for the registry's busybox."""
    return (GOLDEN / f"{case}.Dockerfile").read_text().replace("BASE", f"{registry.address}/busybox")


def config_of(config: dict[str, Any]) -> dict[str, Any]:
    """What is compared of an image's configuration."""
    return {key: config[key] for key in KEYS if config.get(key)}


def differences(expected: dict[str, Any], files: Files, config: dict[str, Any]) -> list[str]:
    """For people."""
    wanted: Files = expected["files"]
    found = [
        f"{name}: expected {wanted.get(name)}, got {files.get(name)}"
        for name in sorted(wanted.keys() | files.keys())
        if wanted.get(name) != files.get(name)
    ]
    have = config_of(config)
    found += [
        f"{key}: expected {expected['config'].get(key)}, got {have.get(key)}"
        for key in KEYS
        if expected["config"].get(key) != have.get(key)
    ]
    return found


@pytest.mark.parametrize("case", CASES)
def test_builds_what_docker_builds(case: str, fleet: Fleet, registry: DockerRegistry, tmp_path: Path) -> None:
    write_context(tmp_path)
    (tmp_path / "Dockerfile").write_text(dockerfile(case, registry))
    name = f"{registry.address}/golden-{case}"
    fleet.shoal("build", "-H", "h1", "--network", "none", "-q", "-t", name, tmp_path)
    fleet.shoal("push", "-H", "h1", name)
    files, config = pulled(name)
    expected = json.loads((GOLDEN / f"{case}.json").read_text())
    assert differences(expected, _without_hard_links(files), config.get("config", {})) == []


def _without_hard_links(files: Files) -> Files:
    """`docker export` names another first link than a layer may: the linked file's own entry stands for both."""
    return {
        name: [*files[found[5]][:5], ""] if found[0] == "1" and found[5] in files else found
        for name, found in files.items()
    }


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    if dockerd_path() is None:
        pytest.skip("Docker is not installed (make bench-peers)")
    with running_dockerd() as running:
        yield running


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_docker_still_says_so(case: str, docker: Dockerd, registry: DockerRegistry, tmp_path: Path) -> None:
    write_context(tmp_path)
    (tmp_path / "Dockerfile").write_text(dockerfile(case, registry))
    tag = f"golden-{case}".lower()
    docker.docker("build", "--network", "none", "-q", "-t", tag, str(tmp_path))
    container = docker.docker("create", tag, "x").stdout.decode().strip()
    files = _without_hard_links(exported(docker.docker("export", container).stdout))
    docker.docker("rm", container)
    config = json.loads(docker.docker("image", "inspect", tag).stdout)[0]["Config"]
    recorded = {"files": files, "config": config_of(config)}
    path = GOLDEN / f"{case}.json"
    if os.environ.get("SHOAL_UPDATE_GOLDEN") == "1":
        path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    assert json.loads(path.read_text()) == json.loads(json.dumps(recorded))
