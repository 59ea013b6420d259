"""`shoald sandbox`: up, in use, down, and down again after everything was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoald.host.mountinfo import mount_points
from shoald.sandbox import state
from tests.support.docker_registry import docker_registry
from tests.support.images import push_image_sync

BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a sandbox needs root"),
]

MINE = """# my hosts
default = ["db"]

[hosts.db]
address = "10.0.0.1:7443"  # do not touch
"""


class Place:
    """A directory for one sandbox, and the client's configuration."""

    def __init__(self, directory: Path, group: str) -> None:
        self.directory = directory / "sandbox"
        self.client_config = directory / "config.toml"
        self.group = group

    def sandbox(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=120)

    def command(self, *arguments: str) -> list[str]:
        place = ["--dir", str(self.directory), "--config", str(self.client_config), "--group", self.group]
        return [str(BIN / "shoald"), "sandbox", *place, *arguments]

    def shoal(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SHOAL_CONFIG": str(self.client_config)}
        return subprocess.run([str(BIN / "shoal"), *arguments], capture_output=True, text=True, timeout=60, env=env)

    def pids(self) -> list[int]:
        """Of the daemons that run."""
        sandbox = state.load(self.directory)
        assert sandbox is not None
        from shoald import lock

        found = [lock.holder(host.config.run_dir) for host in state.hosts(self.directory, sandbox)]
        return [pid for pid in found if pid is not None]

    def traces(self, slot: int) -> list[str]:
        """What of this sandbox is on the machine."""
        found = [name for name in os.listdir("/sys/class/net") if name.startswith(f"shoalbx{slot}-")]
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        found += [line for line in tables.splitlines() if f"shoal_sandbox_{slot}_" in line]
        found += [str(path) for path in Path("/sys/fs/cgroup").rglob(f"shoal-sandbox-{slot}-*")]
        found += [str(mount.path) for mount in mount_points(f"/run/shoal-sandbox-{slot}")]
        found += [str(mount.path) for mount in mount_points(self.directory)]
        found += [str(path) for path in (Path(f"/run/shoal-sandbox-{slot}"), self.directory) if path.exists()]
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if f"/run/shoal-sandbox-{slot}/" in command or f"{self.directory}/" in command:
                    found.append(command)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path, f"t{os.getpid()}")
    yield found
    if found.directory.exists():
        found.sandbox("--down")


def _slot(place: Place) -> int:
    sandbox = state.load(place.directory)
    assert sandbox is not None
    return sandbox.slot


def _wait_gone(place: Place, slot: int) -> None:
    deadline = time.monotonic() + 15
    while (left := place.traces(slot)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_up_used_by_the_client_and_down_with_containers_running(place: Place) -> None:
    place.client_config.write_text(MINE)
    up = place.sandbox("--hosts", "2", "--detach")
    assert up.returncode == 0, up.stderr
    assert "--down" in up.stdout
    slot = _slot(place)
    with docker_registry() as registry:
        push_image_sync(registry.address, "busybox")
        run = place.shoal(
            "run",
            "-g",
            place.group,
            "-d",
            "--name",
            "web",
            "-p",
            "18081:80",
            f"{registry.address}/busybox",
            "sleep",
            "600",
        )
        assert run.returncode == 0, run.stderr
    # The same port on both hosts: each publishes on an address of its own.
    rows = [json.loads(line) for line in place.shoal("ps", "-g", place.group, "--format", "json").stdout.splitlines()]
    assert len(rows) == 2
    assert any("conmon" in trace for trace in place.traces(slot))
    down = place.sandbox("--down")
    assert (down.returncode, down.stdout) == (0, "the sandbox is gone\n"), down.stderr
    _wait_gone(place, slot)
    assert place.client_config.read_text() == MINE
    again = place.sandbox("--down")
    assert (again.returncode, again.stdout) == (0, f"there is no sandbox in {place.directory}\n")


def test_down_after_every_daemon_was_killed(place: Place) -> None:
    assert place.sandbox("--hosts", "2", "--detach").returncode == 0
    slot, pids = _slot(place), place.pids()
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    down = place.sandbox("--down")
    assert down.returncode == 0, down.stderr
    _wait_gone(place, slot)


def test_up_again_after_daemons_were_killed_finds_their_containers(place: Place) -> None:
    assert place.sandbox("--hosts", "2", "--detach").returncode == 0
    slot, pids = _slot(place), place.pids()
    with docker_registry() as registry:
        push_image_sync(registry.address, "busybox")
        image = f"{registry.address}/busybox"
        run = place.shoal("run", "-g", place.group, "-d", "--name", "web", image, "sleep", "600")
        assert run.returncode == 0, run.stderr
    os.kill(pids[0], signal.SIGKILL)
    again = place.sandbox("--detach")
    assert again.returncode == 0, again.stderr
    assert f"started again: {place.group}-1\n" in again.stdout
    assert place.pids()[1] == pids[1]
    assert place.pids()[0] != pids[0]
    rows = [json.loads(line) for line in place.shoal("ps", "-g", place.group, "--format", "json").stdout.splitlines()]
    assert [row["State"] for row in rows] == ["running", "running"]
    assert place.sandbox("--detach").returncode == 1
    down = place.sandbox("--down")
    assert down.returncode == 0, down.stderr
    _wait_gone(place, slot)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_foreground_takes_everything_down(place: Place, number: int) -> None:
    with subprocess.Popen(place.command("--hosts", "1"), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while line := child.stdout.readline():
            if "Ctrl-C" in line:
                break
        slot = _slot(place)
        child.send_signal(number)
        child.send_signal(number)  # an impatient user does not spoil the teardown
        assert child.wait(60) == 0
    _wait_gone(place, slot)
    assert place.client_config.read_text() == ""


def test_a_signal_during_the_start_leaves_nothing(place: Place) -> None:
    with subprocess.Popen(place.command("--hosts", "2"), stdout=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 30
        while state.load(place.directory) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        slot = _slot(place)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 130
    _wait_gone(place, slot)


def test_down_after_the_foreground_itself_was_killed(place: Place) -> None:
    with subprocess.Popen(place.command("--hosts", "1"), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while line := child.stdout.readline():
            if "Ctrl-C" in line:
                break
        slot = _slot(place)
        child.kill()
    assert place.pids(), "the daemon outlives whoever started it"
    assert place.sandbox("--down").returncode == 0
    _wait_gone(place, slot)


def test_the_foreground_ends_when_somebody_else_takes_the_sandbox_down(place: Place) -> None:
    with subprocess.Popen(place.command("--hosts", "1"), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while line := child.stdout.readline():
            if "Ctrl-C" in line:
                break
        assert place.sandbox("--down").returncode == 0
        assert child.wait(60) == 0


def test_two_sandboxes_share_nothing_and_a_second_in_one_place_is_refused(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other", f"{place.group}-other")
    other.client_config = place.client_config
    try:
        assert place.sandbox("--hosts", "1", "--detach").returncode == 0
        assert other.sandbox("--hosts", "1", "--detach").returncode == 0
        assert _slot(place) != _slot(other)
        again = place.sandbox("--hosts", "1", "--detach")
        assert again.returncode == 1
        assert "there is a sandbox in" in again.stderr
        assert "--down" in again.stderr
        assert other.sandbox("--down").returncode == 0
        answer = place.shoal("info", "-g", place.group)
        assert answer.returncode == 0, answer.stderr
        assert f"[hosts.{place.group}-1]" in place.client_config.read_text()
        assert other.group not in place.client_config.read_text()
    finally:
        other.sandbox("--down")


def test_a_name_that_the_user_has_already_is_not_taken(place: Place) -> None:
    mine = f'[hosts.{place.group}-1]\naddress = "10.0.0.1:7443"\n'
    place.client_config.write_text(mine)
    up = place.sandbox("--hosts", "1", "--detach")
    assert up.returncode == 1
    assert "choose another --group" in up.stderr
    assert place.client_config.read_text() == mine
    assert not place.directory.exists() or state.load(place.directory) is None


def test_a_daemon_that_can_not_start_is_reported_and_nothing_stays(place: Place) -> None:
    env = {**os.environ, "SHOALD_RUNTIME_NAME": "/nonexistent/runtime"}
    up = subprocess.run(place.command("--hosts", "2", "--detach"), capture_output=True, text=True, timeout=120, env=env)
    assert up.returncode == 1
    assert "/nonexistent/runtime" in up.stderr
    assert "Traceback" not in up.stderr
    assert not place.directory.exists()
    assert place.client_config.exists() is False or place.client_config.read_text() == ""
