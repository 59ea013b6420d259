"""`save`, `load` and the archives of `build -o type=oci|docker`: between hosts, and with docker, podman and skopeo."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_peers import run
from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry
from tests.support.dockerd import Dockerd, dockerd_path, running_dockerd


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    if dockerd_path() is None:
        pytest.skip("docker is not installed")
    with running_dockerd() as running:
        yield running


@pytest.fixture
def image(fleet: Fleet, busybox: str, tmp_path: Path) -> str:
    """An image on the first host alone; its name."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text(
        f'FROM {busybox}\nRUN echo made > /made && ln /made /hard && chown 5:6 /made\nENV A="b c"\nCMD cat /made\n'
    )
    fleet.shoal("build", "-q", "-H", "h1", "-t", "saved:1", tmp_path / "c")
    fleet.shoal("rmi", "-H", "h2", "-f", "saved:1", code=None)
    return "saved:1"


def image_id(fleet: Fleet, host: str, name: str) -> str:
    [found] = json.loads(fleet.shoal("inspect", "-H", host, name).stdout)
    return str(found["Id"])


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]


def test_from_host_to_host(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    for source in (("-i", tmp_path / "a.tar"), ()):
        fleet.shoal("rmi", "-H", "h2", "-f", image, code=None)
        done = subprocess.run(
            fleet.command("load", "-H", "h2", *source),
            input=(tmp_path / "a.tar").read_bytes(),
            capture_output=True,
            env=fleet.environment(),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"Loaded image: docker.io/library/saved:1\n"
        assert image_id(fleet, "h1", image) == image_id(fleet, "h2", image)
        told = fleet.shoal("run", "-H", "h2", "--rm", image, "stat", "-c", "%h %u:%g", "/hard").stdout
        assert told == "2 5:6\n"
    assert "RepoDigests" not in fleet.shoal("inspect", "-H", "h2", image).stdout or json.loads(
        fleet.shoal("inspect", "-H", "h2", image).stdout
    )[0]["RepoDigests"] in ([], None)


def test_to_several_hosts_compressed_and_again(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image, image_id(fleet, "h1", image))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    for _ in range(2):
        out = fleet.shoal("load", "-i", tmp_path / "a.tar.gz").stdout
        assert out.count("Loaded image: docker.io/library/saved:1") == 2
    piped = subprocess.run(
        ["sh", "-c", f'exec "$@" < {tmp_path}/a.tar.gz', "sh", *fleet.command("load")],
        capture_output=True,
        text=True,
        env=fleet.environment(),
    )
    assert piped.stdout.count("Loaded image") == 2, piped.stderr


def test_the_archive(fleet: Fleet, image: str, busybox: str, tmp_path: Path) -> None:
    """Each blob once, under its digest; the names are those that were asked for."""
    fleet.shoal("pull", "-q", "-H", "h1", busybox)
    fleet.shoal("tag", "-H", "h1", image, "example.com/other/name:2")
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image, "example.com/other/name:2", busybox)
    found = members(tmp_path / "a.tar")
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.removeprefix("blobs/sha256/")
    index = json.loads(found["index.json"])
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == ["docker.io/library/saved:1", "example.com/other/name:2", busybox]
    assert len(index["manifests"][0]["digest"]) == 71
    assert {entry["size"] for entry in index["manifests"]} == {
        len(found[f"blobs/{entry['digest'].replace(':', '/')}"]) for entry in index["manifests"]
    }
    tags = [entry["RepoTags"] for entry in json.loads(found["manifest.json"])]
    assert tags == [["saved:1", "example.com/other/name:2"], [busybox]]
    with tarfile.open(tmp_path / "a.tar") as tar:
        listed = tar.getnames()
    assert len(listed) == len(set(listed))


def test_docker_takes_it_and_gives_it_back(fleet: Fleet, image: str, docker: Dockerd, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    assert b"Loaded image: saved:1" in docker.docker("load", "-i", str(tmp_path / "a.tar")).stdout
    assert docker.docker("run", "--rm", "--network=none", "saved:1").stdout == b"made\n"
    [theirs] = json.loads(docker.docker("image", "inspect", "saved:1").stdout)
    assert theirs["Id"] == image_id(fleet, "h1", image)
    docker.docker("tag", "saved:1", "again:2")
    docker.docker("save", "-o", str(tmp_path / "b.tar"), "again:2", "saved:1")
    assert "index.json" not in members(tmp_path / "b.tar"), "what an old docker writes"
    out = fleet.shoal("load", "-H", "h2", "-i", tmp_path / "b.tar").stdout
    assert sorted(out.split()) == sorted(
        ["Loaded", "image:", "docker.io/library/again:2", "Loaded", "image:", "docker.io/library/saved:1"]
    )
    assert image_id(fleet, "h2", "again:2") == theirs["Id"]
    assert fleet.shoal("run", "-H", "h2", "--rm", "again:2").stdout == "made\n"


def test_skopeo_reads_and_writes_it(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    for kind in (f"oci-archive:{tmp_path}/a.tar", f"docker-archive:{tmp_path}/a.tar"):
        config = json.loads(run("skopeo", "inspect", "--config", kind))
        assert config["config"]["Env"][-1] == "A=b c"
    for number, kind in enumerate(("oci-archive", "docker-archive")):
        written = tmp_path / f"w{number}.tar"
        source = f"docker-archive:{tmp_path}/a.tar"
        run("skopeo", "--insecure-policy", "copy", "-q", source, f"{kind}:{written}:example.com/by/skopeo:{number}")
        out = fleet.shoal("load", "-H", "h2", "-i", written).stdout
        assert out == f"Loaded image: example.com/by/skopeo:{number}\n"
        assert fleet.shoal("run", "-H", "h2", "--rm", f"example.com/by/skopeo:{number}").stdout == "made\n"


def test_outputs_of_a_build(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN echo out > /out\n")
    oci, archive = tmp_path / "oci.tar", tmp_path / "docker.tar"
    flags = ("-o", f"type=oci,dest={oci},name=one", "-o", f"type=docker,dest={archive}")
    fleet.shoal("build", "-q", "-H", "h1", "-t", "two:2", *flags, tmp_path)
    assert "manifest.json" not in members(oci)
    assert json.loads(members(archive)["manifest.json"])[0]["RepoTags"] == ["two:2"]
    assert fleet.shoal("load", "-H", "h2", "-i", oci).stdout == "Loaded image: docker.io/library/one:latest\n"
    assert fleet.shoal("run", "-H", "h2", "--rm", "one", "cat", "/out").stdout == "out\n"
    piped = subprocess.run(
        fleet.command("build", "-q", "-H", "h1", "-o", "type=docker,dest=-", str(tmp_path)),
        capture_output=True,
        env=fleet.environment(),
    )
    with tarfile.open(fileobj=io.BytesIO(piped.stdout)) as tar:
        assert tar.getnames()[0] == "oci-layout"


def archive(files: dict[str, bytes | str]) -> bytes:
    """A tar; text is the target of a symbolic link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


DIGEST = "sha256:" + "a" * 64
STRANGE: dict[str, dict[str, bytes | str]] = {
    "nothing": {},
    "another archive": {"README": b"hello"},
    "no JSON": {"index.json": b"{"},
    "deep JSON": {"index.json": b"[" * 100_000},
    "no digest": {"index.json": _json({"manifests": [{}]})},
    "a bad digest": {"index.json": _json({"manifests": [{"digest": "sha256:../../../etc/passwd"}]})},
    "no manifest": {"index.json": _json({"manifests": [{"digest": DIGEST}]})},
    "another manifest": {"index.json": _json({"manifests": [{"digest": DIGEST}]}), f"blobs/sha256/{'a' * 64}": b"{}"},
    "no config": {"manifest.json": _json([{"Layers": []}])},
    "a config outside": {"manifest.json": _json([{"Config": "../../../../etc/passwd", "Layers": []}])},
    "a link outside": {"manifest.json": _json([{"Config": "x", "Layers": []}]), "x": "/etc/passwd"},
    "links in a circle": {"manifest.json": _json([{"Config": "x", "Layers": []}]), "x": "y", "y": "x"},
    "a directory": {"manifest.json": _json([{"Config": ".", "Layers": []}])},
    "layers that are none": {"manifest.json": _json([{"Config": "c", "Layers": [1]}]), "c": b"{}"},
    "a layer that is missing": {"manifest.json": _json([{"Config": "c", "Layers": ["l"]}]), "c": b"{}"},
    "fewer layers than said": {
        "manifest.json": _json([{"Config": "c", "Layers": []}]),
        "c": _json({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}),
    },
    "another layer": {
        "manifest.json": _json([{"Config": "c", "Layers": ["l"]}]),
        "c": _json({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}),
        "l": archive({"f": b"data"}),
    },
    "a name that is no list": {"manifest.json": _json([{"Config": "c", "Layers": [], "RepoTags": 5}]), "c": b"{}"},
    "a bad name": {"manifest.json": _json([{"Config": "c", "Layers": [], "RepoTags": ["UPPER/../x"]}]), "c": b"{}"},
}


@pytest.mark.parametrize("what", STRANGE)
def test_archives_of_strangers(fleet: Fleet, tmp_path: Path, what: str) -> None:
    before = fleet.shoal("images", "-q", "-H", "h2").stdout
    (tmp_path / "a.tar").write_bytes(archive(STRANGE[what]))
    said = fleet.shoal("load", "-H", "h2", "-i", tmp_path / "a.tar", code=1)
    assert "internal" not in said.stderr.lower()
    assert "root:" not in said.stderr
    assert "shoal: h2: " in said.stderr
    assert fleet.shoal("images", "-q", "-H", "h2").stdout == before
    [daemon] = [each for each in fleet.daemons if each.name == "h2"]
    assert not [name for name in os.listdir(daemon.root / "tmp") if name.startswith("load-")]


def test_an_archive_that_is_cut_off(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    whole = (tmp_path / "a.tar").read_bytes()
    for part in (whole[: len(whole) // 2], whole[:600], b"", gzip.compress(whole)[:-5000], b"no tar at all" * 100):
        (tmp_path / "b.tar").write_bytes(part)
        fleet.shoal("load", "-H", "h2", "-i", tmp_path / "b.tar", code=1)
    assert "saved" not in fleet.shoal("images", "-H", "h2").stdout


def test_what_cannot_be_saved(fleet: Fleet, image: str, tmp_path: Path) -> None:
    assert "no such image" in fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a", "nowhere:1", code=1).stderr.lower()
    assert not (tmp_path / "a").exists()
    assert "single host" in fleet.shoal("save", "-o", tmp_path / "a", image, code=2).stderr
    assert "can't read" in fleet.shoal("load", "-i", tmp_path / "nosuch", code=2).stderr


def test_no_archive_gives_a_digest_to_another_image(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    files: dict[str, bytes | str] = dict(members(tmp_path / "a.tar"))
    del files["index.json"]
    listed = json.loads(files["manifest.json"])
    listed[0]["RepoTags"] = [f"pinned@{DIGEST}", "plain:1"]
    (tmp_path / "b.tar").write_bytes(archive({**files, "manifest.json": _json(listed)}))
    assert (
        fleet.shoal("load", "-H", "h2", "-i", tmp_path / "b.tar").stdout == "Loaded image: docker.io/library/plain:1\n"
    )
    fleet.shoal("inspect", "-H", "h2", f"pinned@{DIGEST}", code=1)


def test_what_was_loaded_can_be_pushed(
    fleet: Fleet, image: str, registry: DockerRegistry, docker: Dockerd, tmp_path: Path
) -> None:
    """Also when its layers were here already, in another form."""
    name = f"{registry.address}/loaded:1"
    docker.docker("pull", "-q", f"{registry.address}/busybox:latest")
    docker.docker("tag", f"{registry.address}/busybox:latest", name)
    docker.docker("save", "-o", str(tmp_path / "a.tar"), name)
    fleet.shoal("pull", "-q", "-H", "h2", f"{registry.address}/busybox:latest")
    fleet.shoal("load", "-H", "h2", "-i", tmp_path / "a.tar")
    fleet.shoal("push", "-q", "-H", "h2", name)
    fleet.shoal("save", "-H", "h2", "-o", tmp_path / "b.tar", name)


def test_not_over_a_pipe_or_a_device(fleet: Fleet, image: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "read").open("wb") as out, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=out) as reader:
        fleet.shoal("save", "-H", "h1", "-o", tmp_path / "pipe", image)
        assert reader.wait(30) == 0
    assert (tmp_path / "read").read_bytes().startswith(b"oci-layout")
    os.mknod(tmp_path / "null", 0o020666, os.makedev(1, 3))
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "null", image)
    assert (tmp_path / "null").is_char_device()


def test_a_pipe_to_several_hosts(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("save", "-H", "h1", "-o", tmp_path / "a.tar", image)
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" -i <(cat {tmp_path}/a.tar)', "bash", *fleet.command("load")],
        capture_output=True,
        text=True,
        env=fleet.environment(),
    )
    assert done.stdout.count("Loaded image") == 2, done.stderr


def test_image_prune(fleet: Fleet, image: str, tmp_path: Path) -> None:
    fleet.shoal("image", "prune", "-f", "-H", "h1")
    used = fleet.shoal("create", "-H", "h1", image, "true").stdout.strip()
    (tmp_path / "c/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /d\nLABEL a=b\n")
    fleet.shoal("build", "-q", "-H", "h1", tmp_path / "c")
    assert fleet.shoal("image", "prune", "-H", "h1", code=2).stderr
    assert "Deleted" not in fleet.shoal("image", "prune", "-f", "-H", "h1", "--filter", "label=c").stdout
    assert "Deleted" not in fleet.shoal("image", "prune", "-f", "-H", "h1", "--filter", "until=24h").stdout
    out = fleet.shoal("image", "prune", "-f", "-H", "h1", "--filter", "label=a=b").stdout
    assert out.count("Deleted: sha256:") == 1
    assert "Total reclaimed space:" in out
    fleet.shoal("image", "prune", "-a", "-f", "-H", "h1")
    assert [each["Id"] for each in fleet.json("inspect", "-H", "h1", image)]
    fleet.shoal("rm", "-H", "h1", used)
    assert f"Untagged: {image}" in fleet.shoal("image", "prune", "-a", "-f", "-H", "h1").stdout
    assert fleet.shoal("images", "-q", "-H", "h1").stdout == ""
