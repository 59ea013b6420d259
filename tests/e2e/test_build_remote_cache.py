"""Caches of builds in a registry: another host starts with them; what they lack, or lie about, does no harm."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry

pytestmark = pytest.mark.root
UNIQUE = "cat /proc/sys/kernel/random/uuid"


def build(host: Fleet, name: str, directory: Path, *flags: str, code: int = 0) -> str:
    done = host.shoal("build", "-H", name, "-t", "it", *flags, directory, code=code)
    return done.stdout + done.stderr


@pytest.fixture
def context(tmp_path: Path, busybox: str) -> Path:
    (tmp_path / "data").write_text("data\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox} AS make\nCOPY data /data\nRUN {UNIQUE} > /made && cat /data >> /made\n"
        f"FROM {busybox}\nRUN mkdir -p /d/e && {UNIQUE} > /d/e/own && chmod 700 /d\nCOPY --from=make /made /made\n"
    )
    return tmp_path


def fresh(fleet: Fleet) -> None:
    """Both hosts know nothing of earlier builds."""
    fleet.shoal("builder", "prune", "-af", "--all")


def manifest(registry: DockerRegistry, name: str) -> Any:
    request = urllib.request.Request(
        f"http://{registry.address}/v2/{name}/manifests/latest",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def blob(registry: DockerRegistry, name: str, digest: str) -> bytes:
    with urllib.request.urlopen(f"http://{registry.address}/v2/{name}/blobs/{digest}") as answer:
        found: bytes = answer.read()
        return found


def made(host: Fleet, name: str, *files: str) -> str:
    return host.shoal("run", "-H", name, "--rm", "it", "cat", *files).stdout


@pytest.mark.parametrize("mode", ["min", "max"])
def test_another_host_starts_with_it(fleet: Fleet, registry: DockerRegistry, context: Path, mode: str) -> None:
    fresh(fleet)
    ref = f"{registry.address}/cache-{mode}"
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={ref},mode={mode}")
    said = build(fleet, "h2", context, "--cache-from", ref)
    first, second = made(fleet, "h1", "/made", "/d/e/own"), made(fleet, "h2", "/made", "/d/e/own")
    assert (first.splitlines()[2] == second.splitlines()[2]) is True, "the step of the result is in both modes"
    assert (first == second) is (mode == "max")
    assert said.count("CACHED") == (6 if mode == "max" else 3), said
    assert fleet.shoal("run", "-H", "h2", "--rm", "it", "stat", "-c", "%a %u", "/d").stdout == "700 0\n"
    # From now on the host's own cache has it, and what it fetched is a layer as any other.
    registry_free = build(fleet, "h2", context)
    assert registry_free.count("CACHED") == said.count("CACHED") + (0 if mode == "max" else 3)
    fleet.shoal("tag", "-H", "h2", "it", f"{registry.address}/pushed")
    fleet.shoal("push", "-H", "h2", f"{registry.address}/pushed")


def test_the_artifact(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    fresh(fleet)
    ref = f"{registry.address}/artifact"
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={ref},mode=max")
    first = manifest(registry, "artifact")
    assert first["artifactType"] == first["config"]["mediaType"] == "application/vnd.shoal.buildcache.v1+json"
    document = json.loads(blob(registry, "artifact", first["config"]["digest"]))
    assert {record["layer"]["digest"] for record in document["records"]} == {each["digest"] for each in first["layers"]}
    assert any(record["description"].startswith("RUN cat") for record in document["records"])
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={ref},mode=max")
    assert manifest(registry, "artifact") == first, "the same cache is the same artifact"


def pushed(fleet: Fleet, name: str, context: Path, *flags: str) -> None:
    fleet.shoal("build", "-H", "h1", "-t", name, "--push", *flags, context)
    fleet.shoal("tag", "-H", "h1", name, "it")


def test_inline(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    fresh(fleet)
    name = f"{registry.address}/inline"
    for flags in (("--cache-to", "type=inline"), ("--build-arg", "BUILDKIT_INLINE_CACHE=1")):
        pushed(fleet, name, context, *flags)
        fleet.shoal("builder", "prune", "-H", "h2", "-af", "--all")
        said = build(fleet, "h2", context, "--cache-from", f"type=registry,ref={name}")
        assert made(fleet, "h1", "/d/e/own") == made(fleet, "h2", "/d/e/own"), said
    pushed(fleet, name, context)
    fleet.shoal("builder", "prune", "-H", "h2", "-af", "--all")
    said = build(fleet, "h2", context, "--cache-from", name)
    assert made(fleet, "h1", "/d/e/own") != made(fleet, "h2", "/d/e/own"), "an image without keys is no cache"


def test_what_changed_is_done(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    fresh(fleet)
    ref = f"{registry.address}/changed"
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={ref},mode=max")
    (context / "data").write_text("other\n")
    build(fleet, "h2", context, "--cache-from", ref)
    assert made(fleet, "h2", "/made").endswith("other\n")
    assert made(fleet, "h1", "/d/e/own") == made(fleet, "h2", "/d/e/own")
    assert (
        "CACHED"
        not in build(fleet, "h2", context, "--cache-from", ref, "--no-cache").replace("FROM", "").split("RUN mkdir")[1]
    )


def test_a_cache_that_cannot_be_used_is_a_warning(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    fresh(fleet)
    address = registry.address
    said = build(fleet, "h2", context, "--cache-from", f"{address}/none", "--cache-from", "127.0.0.1:9/x")
    assert f"the cache {address}/none:latest can't be used" in said
    assert "the cache 127.0.0.1:9/x:latest can't be used" in said
    ref = f"{address}/broken"
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={ref},mode=max")
    for layer in manifest(registry, "broken")["layers"]:
        path = registry.blob_path(layer["digest"])
        kept = path.read_bytes()
        path.write_bytes(b"x" + kept[1:])
    fresh(fleet)
    said = build(fleet, "h2", context, "--cache-from", ref)
    assert "it can't be fetched" in said
    assert made(fleet, "h2", "/made").endswith("data\n")
    for layer in manifest(registry, "broken")["layers"]:
        registry.blob_path(layer["digest"]).unlink()


def put(registry: DockerRegistry, name: str, config: bytes, layers: list[Any]) -> None:
    """Push an artifact that no shoal has written."""
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    base = f"http://{registry.address}/v2/{name}"
    with urllib.request.urlopen(urllib.request.Request(f"{base}/blobs/uploads/", method="POST")) as answer:
        where = answer.headers["Location"]
    where += ("&" if "?" in where else "?") + f"digest={digest}"
    octets = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(where, config, octets, method="PUT")).close()
    kind = "application/vnd.shoal.buildcache.v1+json"
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": kind, "digest": digest, "size": len(config)},
        "layers": layers,
    }
    headers = {"Content-Type": body["mediaType"]}
    request = urllib.request.Request(f"{base}/manifests/latest", json.dumps(body).encode(), headers, method="PUT")
    urllib.request.urlopen(request).close()


def test_artifacts_of_strangers(fleet: Fleet, registry: DockerRegistry, context: Path) -> None:
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{'0' * 64}", "size": 5}
    record = {"key": "sha256:1", "layer": layer, "diff_id": "sha256:2"}
    documents: list[Any] = [
        b"no JSON",
        b"[]",
        b"{}",
        {"records": [1]},
        {"records": [record]},
        {"records": [{**record, "layer": {**layer, "size": -1}}]},
        {"records": [record] * 10_001},
    ]
    for number, document in enumerate(documents):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        put(registry, f"strange-{number}", body, [])
        said = build(fleet, "h2", context, "--cache-from", f"{registry.address}/strange-{number}")
        assert "can't be used" in said, document


def test_a_cache_that_cannot_be_written(fleet: Fleet, context: Path) -> None:
    said = build(fleet, "h1", context, "--cache-to", "127.0.0.1:9/x", code=1)
    assert "the image was built, but its cache was not written to 127.0.0.1:9/x:latest" in said
    assert made(fleet, "h1", "/made").endswith("data\n")
    said = build(fleet, "h1", context, "--cache-to", "type=registry,ref=127.0.0.1:9/x,ignore-error=true")
    assert "WARNING: the cache was not written to 127.0.0.1:9/x:latest" in said


@pytest.mark.parametrize(
    "flags",
    [
        ("--cache-from", "type=gha"),
        ("--cache-from", "type=registry"),
        ("--cache-from", "UPPER"),
        ("--cache-to", "type=s3,ref=x"),
        ("--cache-to", "type=inline,ref=x"),
        ("--cache-to", "ref=x,mode=some"),
        ("--cache-to", "ref=x,what=ever"),
    ],
)
def test_bad_flags(fleet: Fleet, context: Path, flags: tuple[str, str]) -> None:
    assert "invalid cache" in build(fleet, "h1", context, *flags, code=2)
