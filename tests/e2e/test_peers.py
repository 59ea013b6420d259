"""What shoal builds, others accept; what Docker builds, shoal runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry
from tests.support.dockerd import Dockerd, dockerd_path, running_dockerd

pytestmark = pytest.mark.peers

DOCKERFILE = """\
FROM {base} AS maker
RUN mkdir -p /out/deep && echo made > /out/deep/file && ln /out/deep/file /out/hard && ln -s deep/file /out/soft
RUN chmod 4755 /out/hard && chown 1000:1001 /out
FROM {base}
ENV WHO=builder PLACE="a b"
WORKDIR /srv/app
COPY --from=maker /out /srv/app
COPY --chown=33:33 local.txt ./sub/
RUN rm /etc/shadow && echo changed >> /etc/group
LABEL made.by=test
USER 1000
ENTRYPOINT ["sh", "-c"]
CMD ["cat file.txt 2>/dev/null; cat deep/file sub/local.txt; echo $WHO $PLACE $(id -u) $(pwd)"]
"""
OUTPUT = "made\nlocal\nbuilder a b 1000 /srv/app\n"
CHECK = (
    "test ! -e /etc/shadow && stat -c '%a %u:%g %h %n' hard deep sub/local.txt . && readlink soft"
    " && tail -n 1 /etc/group"
)


@pytest.fixture
def context(tmp_path: Path, busybox: str) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(base=busybox))
    (tmp_path / "local.txt").write_text("local\n")
    os.chmod(tmp_path / "local.txt", 0o604)
    return tmp_path


@pytest.fixture
def built(host: Fleet, registry: DockerRegistry, context: Path) -> str:
    """An image that shoal has built and pushed; its reference."""
    name = f"{registry.address}/by-shoal:1"
    host.shoal("build", "-q", "-t", name, context)
    host.shoal("push", "-q", name)
    return name


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    if dockerd_path() is None:
        pytest.skip("docker is not installed")
    with running_dockerd() as running:
        yield running


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=180, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def test_skopeo_and_umoci(built: str, tmp_path: Path) -> None:
    insecure = "--tls-verify=false"
    raw = json.loads(run("skopeo", "inspect", insecure, "--raw", f"docker://{built}"))
    assert raw["schemaVersion"] == 2
    config = json.loads(run("skopeo", "inspect", insecure, "--config", f"docker://{built}"))
    assert config["config"]["Entrypoint"] == ["sh", "-c"]
    assert config["config"]["User"] == "1000"
    assert len(config["rootfs"]["diff_ids"]) == len(raw["layers"])
    assert len([h for h in config["history"] if not h.get("empty_layer")]) == len(raw["layers"])
    layout = tmp_path / "layout"
    run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{built}", f"oci:{layout}:x")
    run("umoci", "unpack", "--image", f"{layout}:x", tmp_path / "bundle")
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "srv/app/deep/file").read_text() == "made\n"
    assert (root / "srv/app/hard").stat().st_mode & 0o7777 == 0o4755
    assert (root / "srv/app/sub/local.txt").stat().st_uid == 33
    assert not (root / "etc/shadow").exists()


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_runs_it(built: str) -> None:
    # A path for the runtime's socket must be short, and the storage must not be below a directory of mode 0700.
    work = Path(tempfile.mkdtemp(prefix="shoal-podman-", dir="/var/tmp"))
    podman: list[str | Path] = ["podman", "--root", work / "root", "--runroot", work / "run", "--tmpdir", work / "tmp"]
    podman += ["--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=overlay"]
    try:
        run(*podman, "pull", "-q", "--tls-verify=false", built)
        flags = [
            "--rm",
            "--network=none",
            "--cgroups=disabled",
            "--log-driver=k8s-file",
            "--ulimit=nofile=256:256",
            "--ulimit=nproc=4096:4096",
        ]
        assert run(*podman, "run", *flags, built) == OUTPUT
        [inspected] = json.loads(run(*podman, "image", "inspect", built))
        assert inspected["Labels"] == {"made.by": "test"}
    finally:
        run(*podman, "system", "reset", "--force")
        shutil.rmtree(work, ignore_errors=True)


def test_docker_runs_it(built: str, docker: Dockerd) -> None:
    docker.docker("pull", "-q", built)
    assert docker.docker("run", "--rm", "--network=none", built).stdout.decode() == OUTPUT


def test_shoal_runs_what_docker_built(host: Fleet, registry: DockerRegistry, docker: Dockerd, context: Path) -> None:
    name = f"{registry.address}/by-docker:1"
    docker.docker("build", "-q", "--network=none", "-t", name, str(context))
    docker.docker("push", "-q", name)
    expected = docker.docker("run", "--rm", "--network=none", "-u0", name, CHECK).stdout.decode()
    host.shoal("pull", "-q", name)
    assert host.shoal("run", "--rm", name).stdout == OUTPUT
    assert host.shoal("run", "--rm", "-u0", name, CHECK).stdout == expected
    [inspected] = json.loads(host.shoal("inspect", name).stdout)
    [theirs] = json.loads(docker.docker("image", "inspect", name).stdout)
    assert inspected["Id"] == theirs["Id"]
    for key in ("Env", "Entrypoint", "Cmd", "User", "WorkingDir", "Labels"):
        assert inspected["Config"][key] == theirs["Config"][key], key
    assert inspected["RootFS"]["Layers"] == theirs["RootFS"]["Layers"]


def test_both_build_the_same_files(built: str, host: Fleet, docker: Dockerd, context: Path) -> None:
    docker.docker("build", "-q", "--network=none", "-t", "same:1", str(context))
    expected = docker.docker("run", "--rm", "--network=none", "-u0", "same:1", CHECK).stdout.decode()
    assert host.shoal("run", "--rm", "-u0", built, CHECK).stdout == expected
