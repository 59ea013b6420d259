"""Caches of builds in directories of the client: another host starts with them; what they lack does no harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal.pki import Role
from shoal.v1 import image_pb2 as pb
from shoal.v1.image_pb2_grpc import ImageServiceStub
from tests.support.daemon import Fleet, until
from tests.support.docker_registry import DockerRegistry
from tests.support.rpc import wire

pytestmark = pytest.mark.root
UNIQUE = "cat /proc/sys/kernel/random/uuid"
ARTIFACT = "application/vnd.shoal.buildcache.v1+json"


def build(host: Fleet, name: str, directory: Path, *flags: str, code: int = 0) -> str:
    done = host.shoal("build", "-H", name, "-t", "it", *flags, directory, code=code)
    return done.stdout + done.stderr


@pytest.fixture
def context(fleet: Fleet, tmp_path: Path, busybox: str) -> Path:
    fleet.shoal("builder", "prune", "-af", "--all")
    at = tmp_path / "context"
    at.mkdir()
    (at / "data").write_text("data\n")
    (at / "Dockerfile").write_text(
        f"FROM {busybox} AS make\nCOPY data /data\nRUN {UNIQUE} > /made && cat /data >> /made\n"
        f"FROM {busybox}\nRUN mkdir -p /d/e && {UNIQUE} > /d/e/own && chmod 700 /d\nCOPY --from=make /made /made\n"
    )
    return at


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def made(host: Fleet, name: str, *files: str) -> str:
    return host.shoal("run", "-H", name, "--rm", "it", "cat", *files).stdout


def index(cache: Path) -> Any:
    return json.loads((cache / "index.json").read_text())


def document(cache: Path, digest: str) -> Any:
    return json.loads((cache / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_text())


def layers(cache: Path, entry: int = 0) -> list[Path]:
    manifest = document(cache, index(cache)["manifests"][entry]["digest"])
    return [cache / "blobs" / "sha256" / each["digest"].removeprefix("sha256:") for each in manifest["layers"]]


def check_layout(cache: Path) -> None:
    """All that is named is there, whole; nothing else is."""
    assert json.loads((cache / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    named = {}
    for entry in index(cache)["manifests"]:
        manifest = document(cache, entry["digest"])
        for part in (entry, manifest["config"], *manifest["layers"]):
            named[part["digest"].removeprefix("sha256:")] = part["size"]
    found = {path.name: path for path in (cache / "blobs" / "sha256").iterdir()}
    assert found.keys() == named.keys()
    for name, path in found.items():
        assert path.stat().st_size == named[name]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name


@pytest.mark.parametrize("mode", ["min", "max"])
def test_another_host_starts_with_it(fleet: Fleet, context: Path, cache: Path, mode: str) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode={mode}")
    check_layout(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["blobs", "index.json", "oci-layout"]
    said = build(fleet, "h2", context, "--cache-from", f"type=local,src={cache}")
    first, second = made(fleet, "h1", "/made", "/d/e/own"), made(fleet, "h2", "/made", "/d/e/own")
    assert first.splitlines()[2] == second.splitlines()[2], "the step of the result is in both modes"
    assert (first == second) is (mode == "max")
    assert said.count("CACHED") == (6 if mode == "max" else 3), said
    assert "WARNING" not in said
    assert fleet.shoal("run", "-H", "h2", "--rm", "it", "stat", "-c", "%a %u", "/d").stdout == "700 0\n"
    shutil.rmtree(cache)
    again = build(fleet, "h2", context)
    assert again.count("CACHED") == said.count("CACHED") + (0 if mode == "max" else 3)


def test_the_artifact(fleet: Fleet, context: Path, cache: Path) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max,tag=one")
    (entry,) = index(cache)["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "one"}
    manifest = document(cache, entry["digest"])
    assert manifest["artifactType"] == manifest["config"]["mediaType"] == ARTIFACT
    records = document(cache, manifest["config"]["digest"])["records"]
    assert {record["layer"]["digest"] for record in records} == {each["digest"] for each in manifest["layers"]}
    before = {path.name: path.stat().st_ino for path in (cache / "blobs" / "sha256").iterdir()}
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max,tag=one")
    assert index(cache)["manifests"] == [entry], "the same cache is the same artifact"
    after = {path.name: path.stat().st_ino for path in (cache / "blobs" / "sha256").iterdir()}
    assert after == before, "what is there is not fetched again"


def test_it_is_what_a_registry_has(fleet: Fleet, registry: DockerRegistry, context: Path, cache: Path) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=registry,ref={registry.address}/both,mode=max")
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    copy = cache.parent / "copy"
    source = f"docker://{registry.address}/both:latest"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{copy}"], check=True)
    assert [each["digest"] for each in index(copy)["manifests"]] == [
        each["digest"] for each in index(cache)["manifests"]
    ]
    said = build(fleet, "h2", context, "--cache-from", f"type=local,src={copy}")
    assert said.count("CACHED") == 6, said
    assert made(fleet, "h1", "/made", "/d/e/own") == made(fleet, "h2", "/made", "/d/e/own")


def test_what_changed_is_done_and_old_blobs_go(fleet: Fleet, context: Path, cache: Path) -> None:
    flags = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache},mode=max")
    said = build(fleet, "h1", context, *flags)
    assert f"the cache {cache} can't be used: {cache} holds no cache: there is no index.json" in said
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},tag=kept")
    foreign = cache / "blobs" / "sha256" / ("f" * 64)
    foreign.write_text("not named by anything")
    first = {path.name for path in layers(cache)}
    (context / "data").write_text("other\n")
    build(fleet, "h2", context, *flags)
    assert made(fleet, "h2", "/made").endswith("other\n")
    assert made(fleet, "h1", "/d/e/own") == made(fleet, "h2", "/d/e/own")
    tags = [each["annotations"]["org.opencontainers.image.ref.name"] for each in index(cache)["manifests"]]
    assert tags == ["kept", "latest"]
    foreign.unlink()
    check_layout(cache)
    second = {path.name for path in layers(cache, 1)}
    assert first - second, "the changed steps have other layers"
    said = build(fleet, "h2", context, *flags, "--no-cache")
    assert "CACHED" not in said.split("RUN mkdir")[1]


def test_nothing_travels_twice(fleet: Fleet, context: Path, cache: Path) -> None:
    (context / "Dockerfile").write_text(
        (context / "Dockerfile").read_text() + "RUN dd if=/dev/urandom of=/large bs=1M count=8 2>/dev/null\n"
    )
    said = build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    assert "cache: Downloading" in said
    flags = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache},mode=max")
    inodes = {path.name: path.stat().st_ino for path in layers(cache)}
    said = build(fleet, "h2", context, *flags)
    assert "cache: Downloading" not in said
    assert {path.name: path.stat().st_ino for path in layers(cache)} == inodes
    for path in layers(cache):
        path.unlink()
    said = build(fleet, "h2", context, "--cache-from", f"type=local,src={cache}")
    assert "WARNING" not in said, "a host that has it asks for no layer"


def test_a_cache_that_cannot_be_used_is_a_warning(fleet: Fleet, context: Path, cache: Path) -> None:
    source = f"type=local,src={cache}"
    assert f"WARNING: the cache {cache} can't be used" in build(fleet, "h2", context, "--cache-from", source)
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    assert "tag 'other'" in build(fleet, "h2", context, "--cache-from", source + ",tag=other")
    digest = index(cache)["manifests"][0]["digest"]
    fleet.shoal("builder", "prune", "-H", "h2", "-af", "--all")
    assert build(fleet, "h2", context, "--cache-from", f"{source},digest={digest}").count("CACHED") == 6
    whole = (cache / "index.json").read_bytes()
    for broken in (whole[: len(whole) // 2], b"[]", b'{"manifests":[1]}', b"\xff", b""):
        (cache / "index.json").write_bytes(broken)
        said = build(fleet, "h2", context, "--cache-from", source)
        assert f"the cache {cache} can't be used: it is broken" in said
        said = build(fleet, "h2", context, "--cache-to", f"type=local,dest={cache}", code=2)
        assert "it is broken" in said
        assert "delete" in said
        assert "RUN" not in said, "before anything is built"
    (cache / "index.json").write_bytes(whole)
    config = document(cache, digest)["config"]["digest"]
    path = cache / "blobs" / "sha256" / config.removeprefix("sha256:")
    path.write_bytes(path.read_bytes().replace(b"RUN", b"RAN"))
    said = build(fleet, "h2", context, "--cache-from", source)
    assert f"the cache {cache} can't be used" in said


@pytest.mark.parametrize("harm", ["bytes", "shorter", "longer", "gone", "link", "fifo"])
def test_a_broken_layer_is_a_warning(fleet: Fleet, context: Path, cache: Path, harm: str) -> None:
    target = f"type=local,dest={cache},mode=max"
    build(fleet, "h1", context, "--cache-to", target)
    secret = cache.parent / "secret"
    for path in layers(cache):
        whole = path.read_bytes()
        path.unlink()
        if harm == "bytes":
            path.write_bytes(b"x" + whole[1:])
        elif harm == "shorter":
            path.write_bytes(whole[:-1])
        elif harm == "longer":
            path.write_bytes(whole + b"x")
        elif harm == "link":
            secret.write_bytes(whole)
            path.symlink_to(secret)
        elif harm == "fifo":
            os.mkfifo(path)
    said = build(fleet, "h2", context, "--cache-from", f"type=local,src={cache}")
    assert said.count("but it can't be fetched") == 3, said
    assert made(fleet, "h2", "/made").endswith("data\n")
    assert made(fleet, "h1", "/d/e/own") != made(fleet, "h2", "/d/e/own")
    assert list((fleet.daemons[1].root / "content" / "ingest").iterdir()) == [], "nobody goes on with what was sent"
    build(fleet, "h1", context, "--cache-to", target)
    check_layout(cache)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "index.json"])
def test_links_lead_nowhere(fleet: Fleet, context: Path, cache: Path, name: str) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    elsewhere = cache.parent / "elsewhere"
    (cache / name).rename(elsewhere)
    (cache / name).symlink_to(elsewhere)
    said = build(fleet, "h2", context, "--cache-from", f"type=local,src={cache}")
    assert "can't be used: it is broken" in said or "can't be used: the client can't send it" in said, said
    before = sorted(path.name for path in elsewhere.rglob("*"))
    done = build(fleet, "h2", context, "--cache-to", f"type=local,dest={cache}", code=2)
    assert "it is broken" in done
    assert sorted(path.name for path in elsewhere.rglob("*")) == before


def test_a_client_that_is_killed_leaves_a_whole_cache(fleet: Fleet, context: Path, cache: Path) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    whole = (cache / "index.json").read_bytes()
    text = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(
        text + "RUN dd if=/dev/urandom of=/large bs=1M count=200 2>/dev/null\nRUN touch /end\n"
    )
    fleet.shoal("build", "-H", "h1", "-q", context)
    command = fleet.command("build", "-H", "h1", "-q", "--cache-to", f"type=local,dest={cache},mode=max", context)
    client = subprocess.Popen(command, env=fleet.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ingest = cache / ".shoal-ingest"
    until(lambda: ingest.is_dir() and any(path.stat().st_size > 1 << 20 for path in ingest.iterdir()))
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert (cache / "index.json").read_bytes() == whole
    check_layout(cache)
    (left,) = [path for path in ingest.iterdir() if path.stat().st_size > 1 << 20]
    inode = left.stat().st_ino
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},mode=max")
    check_layout(cache)
    assert not ingest.exists()
    assert (cache / "blobs" / "sha256" / left.name).stat().st_ino == inode, "what had come is taken up"


def test_a_cache_that_cannot_be_written(fleet: Fleet, context: Path, cache: Path) -> None:
    cache.write_text("a file")
    said = build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache}", code=2)
    assert f"--cache-to: {cache}" in said
    assert "RUN" not in said
    said = build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache},ignore-error=true")
    assert f"WARNING: the cache can't be written to {cache}" in said
    assert made(fleet, "h1", "/made").endswith("data\n")


def test_several_hosts(fleet: Fleet, context: Path, cache: Path) -> None:
    target = f"type=local,dest={cache}"
    done = fleet.shoal("build", "-t", "it", "--cache-to", target, context, code=2)
    assert "--cache-to type=local needs a single host" in done.stderr
    fleet.shoal("build", "-t", "it", "--once", "--cache-to", target + ",mode=max", context)
    check_layout(cache)
    fleet.shoal("builder", "prune", "-af", "--all")
    fleet.shoal("build", "-t", "it", "--cache-from", f"type=local,src={cache}", context)
    assert made(fleet, "h1", "/made", "/d/e/own") == made(fleet, "h2", "/made", "/d/e/own"), "both have it of one"
    for flags in (("--cache-to", target), ("--cache-from", f"type=local,src={cache}")):
        assert "--detach" in fleet.shoal("build", "-H", "h1", "--detach", *flags, context, code=2).stderr


def test_what_a_host_gives_to_whom(fleet: Fleet, context: Path, cache: Path) -> None:
    build(fleet, "h1", context, "--cache-to", f"type=local,dest={cache}")
    request = pb.ImageServiceReadCacheBlobRequest
    known = fleet.shoal("build", "list", "-H", "h1", "-q").stdout.split()[-1]
    entry = index(cache)["manifests"][0]
    digest, size = entry["digest"], entry["size"]
    with wire(fleet) as host:
        read = host.images.ReadCacheBlob
        body = b"".join(each.chunk for each in read(request(request_id=known, digest=digest)))
        assert f"sha256:{hashlib.sha256(body).hexdigest()}" == digest
        rest = b"".join(each.chunk for each in read(request(request_id=known, digest=digest, offset=10)))
        assert rest == body[10:]
        assert list(read(request(request_id=known, digest=digest, offset=size))) == []
        failures = {
            "CACHE_NOT_FOUND": request(request_id="other", digest=digest),
            "BLOB_NOT_FOUND": request(request_id=known, digest="sha256:" + "0" * 64),
            "OFFSET_OUT_OF_RANGE": request(request_id=known, digest=digest, offset=size + 1),
            "INVALID_FIELD": request(request_id=known, digest=digest, offset=-1),
            "INVALID_DIGEST": request(request_id=known, digest="x"),
        }
        for reason, each in failures.items():
            assert host.failure(read, each).reason == reason
    certificate, key = fleet.user("looker", Role.READER)
    files = (fleet.directory / "pki" / "ca.pem", key, certificate)
    trust = grpc.ssl_channel_credentials(*(each.read_bytes() for each in files))
    with grpc.secure_channel(fleet.first.address, trust) as channel:
        images = ImageServiceStub(channel)
        for call in (
            images.ReadCacheBlob(request(request_id=known, digest=digest)),
            images.LendCache(iter([pb.ImageServiceLendCacheRequest(start={"handle": "0123456789abcdef"})])),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
