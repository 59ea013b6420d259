"""One image for several platforms: built on one host or several, pushed, saved, loaded, run, removed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_peers import run
from tests.support.daemon import Daemon, Fleet
from tests.support.docker_registry import DockerRegistry

BOTH = "linux/amd64,linux/arm64"
ANOTHER = """
import os, sys
import shoalctl.commands.choosing as choosing
def assigned(found, platforms):
    first, second = sorted(each.host for each in found)
    return [choosing.Builder(first, [second], platforms[:1]), choosing.Builder(second, (), platforms[1:])]
choosing.assigned = assigned
from shoalctl.main import main
main()
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An image that consists of files alone: no emulator is needed."""
    place = tmp_path / "context"
    place.mkdir()
    (place / "amd64.txt").write_text("for amd64\n")
    (place / "arm64.txt").write_text("for arm64\n")
    (place / "Dockerfile").write_text('FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH.txt /arch\nCMD ["/arch"]\n')
    return place


def build(fleet: Fleet, context: Path, name: str, *flags: str, host: str = "h1") -> str:
    """The digest of the index."""
    done = fleet.shoal("build", "-H", host, "-q", "--platform", BOTH, "-t", name, *flags, context)
    return done.stdout.strip()


def index(fleet: Fleet, host: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.shoal("manifest", "inspect", "-H", host, name).stdout)
    return found


def config_of(fleet: Fleet, host: str, name: str, position: int) -> str:
    """The id of an image of an index."""
    manifest = index(fleet, host, name)["manifests"][position]["digest"]
    return str(fleet.json("inspect", "-H", host, manifest)[0]["Id"])


def architectures(document: dict[str, Any]) -> list[str]:
    return [entry["platform"]["architecture"] for entry in document["manifests"]]


def file_of(fleet: Fleet, host: str, name: str, platform: str, path: str = "/arch") -> str:
    made = fleet.shoal("create", "-H", host, "--pull", "never", "--platform", platform, name, "/arch").stdout.strip()
    try:
        archive = fleet.shoal("cp", "-H", host, f"{made}:{path}", "-").stdout
    finally:
        fleet.shoal("rm", "-H", host, made)
    return archive


def blobs(daemon: Daemon) -> set[str]:
    return {each.name for each in (daemon.root / "content/blobs/sha256").iterdir()}


def test_one_name_for_all(fleet: Fleet, context: Path) -> None:
    digest = build(fleet, context, "multi:1")
    assert digest.startswith("sha256:")
    document = index(fleet, "h1", "multi:1")
    assert document["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert architectures(document) == ["amd64", "arm64"]
    assert index(fleet, "h1", digest) == document
    assert "for amd64" in file_of(fleet, "h1", "multi:1", "linux/amd64")
    assert "for arm64" in file_of(fleet, "h1", "multi:1", "linux/arm64")
    listed = fleet.shoal("images", "-H", "h1", "-q", "multi").stdout.split()
    everything = fleet.shoal("images", "-H", "h1", "-q", "-a", "--no-trunc").stdout.split()
    plain = fleet.shoal("images", "-H", "h1", "-q", "--no-trunc").stdout.split()
    assert len(listed) == 1
    assert len(set(everything) - set(plain)) == 1
    assert build(fleet, context, "multi:1") == digest, "an unchanged build gives the same index"
    fleet.shoal("rmi", "-H", "h1", "multi:1")


def test_steps_tell_their_platform(fleet: Fleet, context: Path) -> None:
    done = fleet.shoal("build", "-H", "h1", "--no-cache", "--platform", BOTH, "-t", "told", context)
    assert "[linux/amd64 stage-0 1/1] COPY amd64.txt /arch" in done.stderr
    assert "[linux/arm64 stage-0 1/1] COPY arm64.txt /arch" in done.stderr
    fleet.shoal("rmi", "-H", "h1", "told")


def test_a_stage_of_the_build_platform_runs_for_each(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM --platform=$BUILDPLATFORM {busybox} AS make\nARG TARGETARCH\n"
        "RUN echo made for $TARGETARCH on $(uname -m) > /arch\n"
        'FROM scratch\nCOPY --from=make /arch /arch\nCMD ["x"]\n'
    )
    build(fleet, tmp_path, "cross")
    assert "made for amd64" in file_of(fleet, "h1", "cross", "linux/amd64")
    assert "made for arm64" in file_of(fleet, "h1", "cross", "linux/arm64")
    fleet.shoal("rmi", "-H", "h1", "cross")


def test_it_is_pushed_as_a_whole(fleet: Fleet, registry: DockerRegistry, context: Path, tmp_path: Path) -> None:
    name = f"{registry.address}/whole:1"
    digest = build(fleet, context, name, "--push")
    raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    assert architectures(json.loads(raw)) == ["amd64", "arm64"]
    for arch in ("amd64", "arm64"):
        target = tmp_path / arch
        run("skopeo", "copy", "--src-tls-verify=false", "--override-arch", arch, f"docker://{name}", f"dir:{target}")
        layer = json.loads((target / "manifest.json").read_text())["layers"][0]["digest"].removeprefix("sha256:")
        with tarfile.open(target / layer) as tar:
            assert tar.extractfile("arch").read() == f"for {arch}\n".encode()  # type: ignore[union-attr]
    fleet.shoal("pull", "-q", "-H", "h2", name)
    [pulled] = fleet.json("inspect", "-H", "h2", name)
    assert pulled["Architecture"] == "amd64"
    assert any(each.endswith(digest) for each in pulled["RepoDigests"])
    fleet.shoal("rmi", name)


def test_its_end_leaves_nothing(fleet: Fleet, context: Path) -> None:
    fleet.shoal("builder", "prune", "-af", "-H", "h1")
    before = blobs(fleet.first)
    build(fleet, context, "gone:1")
    fleet.shoal("tag", "-H", "h1", "gone:1", "gone:2")
    assert index(fleet, "h1", "gone:2") == index(fleet, "h1", "gone:1")
    removed = fleet.shoal("rmi", "-H", "h1", "gone:1").stdout
    assert "Deleted" not in removed
    assert architectures(index(fleet, "h1", "gone:2")) == ["amd64", "arm64"]
    assert fleet.shoal("rmi", "-H", "h1", "gone:2").stdout.count("Deleted") == 2
    fleet.shoal("builder", "prune", "-af", "-H", "h1")
    assert blobs(fleet.first) == before


def test_a_name_that_moves_leaves_its_images(fleet: Fleet, context: Path) -> None:
    build(fleet, context, "moves")
    (context / "amd64.txt").write_text("new\n")
    digest = build(fleet, context, "moves")
    assert index(fleet, "h1", digest) == index(fleet, "h1", "moves")
    dangling = fleet.shoal("images", "-H", "h1", "-q", "-f", "dangling=true").stdout.split()
    assert len(dangling) == 1, "the older image; the unchanged one is part of the new index"
    fleet.shoal("rmi", "-H", "h1", *dangling)
    fleet.shoal("rmi", "-H", "h1", "moves")


def test_a_part_is_not_removed_by_accident(fleet: Fleet, context: Path) -> None:
    build(fleet, context, "kept:1")
    part = config_of(fleet, "h1", "kept:1", 1)
    done = fleet.shoal("rmi", "-H", "h1", part, code=1)
    assert "part of docker.io/library/kept:1" in done.stderr
    fleet.shoal("rmi", "-H", "h1", "-f", part)
    assert "is no index" in fleet.shoal("manifest", "inspect", "-H", "h1", "kept:1", code=1).stderr
    assert "for amd64" in file_of(fleet, "h1", "kept:1", "linux/amd64")
    fleet.shoal("rmi", "-H", "h1", "kept:1")


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_archive_has_all_of_it(fleet: Fleet, context: Path, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "a.tar"
    digest = build(fleet, context, "packed:1", "-o", f"type={kind},dest={archive}")
    fleet.shoal("load", "-H", "h2", "-i", archive)
    assert index(fleet, "h2", "packed:1") == index(fleet, "h1", digest)
    assert "for arm64" in file_of(fleet, "h2", "packed:1", "linux/arm64")
    run("skopeo", "copy", "--all", f"oci-archive:{archive}:1", f"dir:{tmp_path / 'all'}")
    assert architectures(json.loads((tmp_path / "all/manifest.json").read_text())) == ["amd64", "arm64"]
    fleet.shoal("rmi", "packed:1")


def test_directories_for_each_platform(fleet: Fleet, context: Path, tmp_path: Path) -> None:
    build(fleet, context, "dirs", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out/linux_amd64/arch").read_text() == "for amd64\n"
    assert (tmp_path / "out/linux_arm64/arch").read_text() == "for arm64\n"
    done = fleet.shoal("build", "-H", "h1", "--platform", BOTH, "-o", "type=tar,dest=x.tar", context, code=2)
    assert "needs a single platform" in done.stderr
    fleet.shoal("rmi", "-H", "h1", "dirs")


def test_a_killed_daemon_keeps_it(fleet: Fleet, context: Path) -> None:
    build(fleet, context, "lives")
    before = index(fleet, "h1", "lives")
    fleet.first.kill()
    fleet.first.start()
    assert index(fleet, "h1", "lives") == before
    assert "for arm64" in file_of(fleet, "h1", "lives", "linux/arm64")
    fleet.shoal("rmi", "-H", "h1", "lives")


def test_a_base_for_another_platform_takes_no_name_away(
    fleet: Fleet, registry: DockerRegistry, context: Path, tmp_path: Path
) -> None:
    name = f"{registry.address}/base:1"
    build(fleet, context, name, "--push")
    fleet.shoal("rmi", "-H", "h1", name)
    fleet.shoal("pull", "-q", "-H", "h1", name)
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nCOPY Dockerfile /d\n")
    build(fleet, tmp_path, "onbase")
    assert "for arm64" in file_of(fleet, "h1", "onbase", "linux/arm64")
    [found] = fleet.json("inspect", "-H", "h1", name)
    assert found["Architecture"] == "amd64"
    # Where the host has the index itself, nothing is pulled.
    build(fleet, context, "localhost:1/own:1")
    (tmp_path / "Dockerfile").write_text("FROM localhost:1/own:1\nCOPY Dockerfile /d\n")
    build(fleet, tmp_path, "onown")
    assert "for arm64" in file_of(fleet, "h1", "onown", "linux/arm64")
    fleet.shoal("rmi", "-H", "h1", name, "onbase", "onown", "localhost:1/own:1")


def test_an_index_of_images_that_are_there(fleet: Fleet, context: Path, registry: DockerRegistry) -> None:
    for arch in ("amd64", "arm64"):
        fleet.shoal("build", "-q", "-H", "h1", "--platform", f"linux/{arch}", "-t", f"one:{arch}", context)
    name = f"{registry.address}/joined:1"
    fleet.shoal("manifest", "create", "-H", "h1", name, "one:amd64", "one:arm64")
    fleet.shoal("push", "-q", "-H", "h1", name)
    raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    assert architectures(json.loads(raw)) == ["amd64", "arm64"]
    done = fleet.shoal("manifest", "create", "-H", "h1", "twice", "one:amd64", "one:arm64", "one:amd64")
    assert done.stdout.strip() == "sha256:" + done.stdout.strip().removeprefix("sha256:")
    (context / "amd64.txt").write_text("other\n")
    fleet.shoal("build", "-q", "-H", "h1", "-t", "other", context)
    done = fleet.shoal("manifest", "create", "-H", "h1", "clash", "one:amd64", "other", code=1)
    assert "two of the images are for linux/amd64" in done.stderr
    fleet.shoal("rmi", "-H", "h1", "-f", "twice", name, "one:amd64", "one:arm64", "other")


@pytest.mark.parametrize("distributed", [False, True])
def test_each_host_builds_its_platform(
    fleet: Fleet, context: Path, registry: DockerRegistry, tmp_path: Path, distributed: bool
) -> None:
    """Both hosts of this test are of one platform: the choice is told."""
    name = f"{registry.address}/apart:1"
    for host in ("h1", "h2"):
        fleet.shoal("rmi", "-H", host, "-f", name, code=None)
    flags = ["--distribute" if distributed else "--once", "--push", "--platform", BOTH, "--iidfile", tmp_path / "iid"]
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER, "--all", "build", *map(str, flags), "-t", name, str(context)],
        env=fleet.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "putting the platforms together on h1" in done.stderr
    [line, *others] = done.stdout.splitlines()
    assert line.split()[-1] == (tmp_path / "iid").read_text().strip()
    assert len(others) == int(distributed)
    document = index(fleet, "h1", name)
    assert architectures(document) == ["amd64", "arm64"]
    raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    assert json.loads(raw) == document
    if distributed:
        assert index(fleet, "h2", name) == document
        assert "for amd64" in file_of(fleet, "h2", name, "linux/amd64")
    else:
        [found] = fleet.json("inspect", "-H", "h2", name)
        assert found["Architecture"] == "arm64"
    fleet.shoal("rmi", "-f", name)


def test_programs_of_another_platform(fleet: Fleet, tmp_path: Path) -> None:
    """With an emulator they run; without one the error says what is missing."""
    # A program that exits with 7: mov x0, #7; mov x8, #93; svc #0.
    code = struct.pack("<III", 0xD28000E0, 0xD2800BA8, 0xD4000001)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, 0x400078, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 0x200, 0x200, 0x1000)
    (tmp_path / "sh").write_bytes(header + segment + code + bytes(400))
    (tmp_path / "sh").chmod(0o755)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY sh /bin/sh\nRUN anything\n")
    done = fleet.shoal("build", "-H", "h1", "--platform", "linux/arm64", tmp_path, code=1)
    if Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        assert "exit code: 7" in done.stderr
    else:
        assert "needs an emulator on the host" in done.stderr


def test_what_fails_makes_nothing(fleet: Fleet, context: Path) -> None:
    (context / "arm64.txt").unlink()
    before = fleet.shoal("images", "-H", "h1", "-q", "-a").stdout
    done = fleet.shoal("build", "-H", "h1", "--platform", BOTH, "-t", "fails", context, code=1)
    assert '"/arm64.txt": not found' in done.stderr
    assert fleet.shoal("images", "-H", "h1", "-q", "-a").stdout == before
    for flag in ("linux/amd64,,linux/arm64", "linux/amd64,nonsense"):
        assert fleet.shoal("build", "--platform", flag, context, code=2).stderr


def test_a_daemon_that_is_killed_in_the_middle(
    fleet: Fleet, busybox: str, registry: DockerRegistry, tmp_path: Path
) -> None:
    """The client says what happened; nothing half-made stays, and the next build goes on from there."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM --platform=$BUILDPLATFORM {busybox} AS make\nARG TARGETARCH\n"
        "RUN echo $TARGETARCH > /arch\nRUN echo begun && sleep 3\n"
        'FROM scratch\nCOPY --from=make /arch /arch\nCMD ["x"]\n'
    )
    fleet.shoal("builder", "prune", "-af", "-H", "h1")
    before = blobs(fleet.first)
    name = f"{registry.address}/killed:1"
    flags = ["-H", "h1", "--platform", BOTH, "--sbom", "--provenance", "--push", "-t", name]
    started = subprocess.Popen(
        fleet.command("build", *flags, tmp_path), stderr=subprocess.PIPE, text=True, env=fleet.environment()
    )
    assert started.stderr is not None
    while "begun" not in (line := started.stderr.readline()):
        assert line
    fleet.first.kill()
    fleet.first.start()
    rest = started.communicate(timeout=60)[1]
    assert started.returncode == 1
    assert "h1: the daemon was restarted in the middle of the build" in rest
    assert "killed" not in fleet.shoal("images", "-H", "h1", "-a").stdout
    done = fleet.shoal("build", *flags, tmp_path)
    assert done.stderr.count("CACHED") >= 2
    assert architectures(index(fleet, "h1", name)) == ["amd64", "arm64", "unknown", "unknown"]
    fleet.shoal("rmi", "-H", "h1", name)
    fleet.shoal("builder", "prune", "-af", "-H", "h1")
    assert blobs(fleet.first) == before
