"""CDI devices by the command, over two hosts of which one has them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.pki import Role
from tests.support.daemon import Fleet, running_fleet

SPEC = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  hooks:
  - {hookName: createContainer, path: %s, args: [hook, GPU]}
devices:
- name: "0"
  containerEdits: {env: [GPU=0], deviceNodes: [{path: /dev/nvidia0, hostPath: /dev/null}]}
- name: all
  containerEdits: {env: [GPU=all], deviceNodes: [{path: /dev/nvidia0, hostPath: /dev/null}]}
"""
HOOK = """#!/bin/sh
bundle=$(sed -n 's/.*"bundle": *"\\([^"]*\\)".*/\\1/p')
root=$(sed -n 's/.*"root":{"path":"\\([^"]*\\)".*/\\1/p' "$bundle/config.json")
echo "$1" > "$root/hooked"
env > "$root/hookenv"
"""


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """A directory of specifications for each host; a container's root can reach the hook."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-cdi-", dir="/var/tmp"))
    directory.chmod(0o755)
    for name in ("h1", "h2"):
        (directory / name).mkdir()
    (directory / "hook").write_text(HOOK)
    (directory / "hook").chmod(0o755)
    (directory / "h1/nvidia.yaml").write_text(SPEC % (directory / "hook"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def pair(places: Path, busybox: str) -> Iterator[Fleet]:
    with running_fleet(2) as fleet:
        for daemon in fleet.daemons:
            daemon.stop()
            daemon.configure(runtime={"cdi_dirs": [str(places / daemon.name), "/nothing"]})
            daemon.start()
        fleet.shoal("pull", "--all", busybox)
        yield fleet
        fleet.remove_containers()


def test_one_host_has_it(pair: Fleet, places: Path, busybox: str) -> None:
    look = ("sh", "-c", "echo $GPU; cat /hooked; ls /dev/nvidia0")
    done = pair.shoal("run", "--all", "--rm", "--gpus", "all", busybox, *look, code=3)
    assert done.stdout.splitlines() == ["h1 | all", "h1 | GPU", "h1 | /dev/nvidia0"]
    assert "h2: this host has no CDI device nvidia.com/gpu=all" in done.stderr
    assert f"nvidia-ctk cdi generate --output={places}/h2/nvidia.yaml" in done.stderr
    done = pair.shoal("run", "-H", "h1", "--rm", "--device", "nvidia.com/gpu=0", busybox, *look)
    assert done.stdout.splitlines() == ["0", "GPU", "/dev/nvidia0"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_hook_has_nothing_of_the_containers_environment(places: Path, busybox: str, runtime: str) -> None:
    """It runs as root, with the host's files in view: LD_PRELOAD of an image must not reach it."""
    with running_fleet(1) as one:
        one.first.stop()
        one.first.configure(runtime={"name": runtime, "cdi_dirs": [str(places / "h1")]})
        one.first.start()
        done = one.shoal("run", "--rm", "-e", "CANARY=1", "--gpus", "all", busybox, "cat", "/hookenv")
    assert "PATH=" in done.stdout
    assert "CANARY" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--gpus", "2"), 125, "it has nvidia.com/gpu=0, nvidia.com/gpu=all"),
        (("--gpus", "device=GPU-7"), 125, "no CDI device nvidia.com/gpu=GPU-7"),
        (("--device", "example.com/x.y=z"), 125, "no CDI device example.com/x.y=z"),
        (("--device", "nvidia.com/gpu"), 2, "vendor.com/class=name for CDI"),
        (("--gpus", "capabilities=utility"), 2, "all, a number or device=0,1"),
    ],
)
def test_what_can_not_be_had(pair: Fleet, busybox: str, flags: tuple[str, ...], code: int, message: str) -> None:
    done = pair.shoal("run", "-H", "h1", "--rm", *flags, busybox, "true", code=code)
    assert message in done.stderr
    assert pair.shoal("ps", "-aq", "-H", "h1").stdout == ""


def test_files_that_do_not_count(pair: Fleet, places: Path, busybox: str) -> None:
    path = places / "h2/nvidia.yaml"
    path.write_text(SPEC % (places / "hook"))
    path.chmod(0o666)
    run = ("run", "-H", "h2", "--rm", "--gpus", "all", busybox, "true")
    done = pair.shoal(*run, code=125)
    assert f"{path} can be written by others than root (mode 666)" in done.stderr
    path.chmod(0o644)
    pair.shoal(*run)
    path.write_text("a: [")
    assert f"{path}: while parsing" in pair.shoal(*run, code=125).stderr
    path.unlink()


def test_devices_are_for_admins(pair: Fleet, busybox: str) -> None:
    certificate, key = pair.user("op", Role.OPERATOR)
    pair.add_host("h1-op", pair.first.address, cert=str(certificate), key=str(key))
    try:
        done = pair.shoal("run", "-H", "h1-op", "--rm", "--gpus", "all", busybox, "true", code=None)
    finally:
        pair.remove_host("h1-op")
    assert done.returncode != 0
    assert "a CDI device" in done.stderr
    assert "admin" in done.stderr
