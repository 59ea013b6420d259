"""`shoal run`: the request, the streams, the exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound
from shoal.v1 import container_pb2
from tests.support.cli import Shoal, golden
from tests.support.fake_daemon import FakeDaemon, record

pytestmark = pytest.mark.usefixtures("config")


def test_run_sends_what_was_asked(
    shoal: Shoal, h1: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env").write_text("FROM_FILE=1\nA=0\n")
    monkeypatch.setenv("MINE", "own")
    code, out, _ = shoal(
        "run", "-d", "--name", "n", "-e", "A=1", "-e", "MINE", "--env-file", str(tmp_path / "env"),
        "-p", "8080:80", "-p", "[::1]:53:53/udp", "-v", "/srv:/srv:ro", "-v", "data:/data", "--tmpfs", "/tmp:size=1m",
        "-w", "/w", "-u", "1:2", "-l", "k=v", "--read-only", "--network", "bridge", "-h", "hh", "--entrypoint", "",
        "--init", "--restart", "on-failure:3", "--stop-signal", "INT", "--stop-timeout", "5", "--platform", "arm64",
        "-m", "64m", "--cpus", "1.5", "--pids-limit", "10", "busybox", "sh", "-c", "echo -p 1",
    )  # fmt: skip
    assert (code, out) == (0, "c" * 64 + "\n")
    (request,) = h1.requests("Run")
    assert re.fullmatch("[0-9a-f]{32}", request.request_id)
    golden("run-request.txt", str(request.spec))


def test_everything_after_the_image_is_the_command(shoal: Shoal, h1: FakeDaemon) -> None:
    shoal("run", "-d", "busybox", "ls", "--rm", "-H", "x", "--", "-d")
    assert list(h1.requests("Run")[0].spec.command) == ["ls", "--rm", "-H", "x", "--", "-d"]


def test_run_in_the_foreground(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.records = [record("hello\n"), record("oops\n", error=True)]
    h1.exit_code = 7
    assert shoal("run", "busybox") == (7, "hello\n", "oops\n")
    assert h1.requests("Attach")[0].start.cursor == "start"


def test_run_takes_up_a_lost_link_without_gap_or_duplicate(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.records = [record(f"{n}\n") for n in range(5)]
    h1.breaks = {"Attach": 3}
    assert shoal("run", "busybox") == (0, "0\n1\n2\n3\n4\n", "")
    assert len(h1.requests("Run")) == 1
    assert len(h1.requests("Attach")) == 4


def test_run_on_several_hosts_marks_lines(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.records, h2.records = [record("one\n")], [record("two")]
    h2.exit_code = 4
    code, out, err = shoal("run", "-g", "both", "busybox")
    assert code == 3
    assert sorted(out.splitlines()) == ["h1 | one", "h2 | two"]
    assert "h2: the container exited with code 4" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FailedPrecondition("no", reason="COMMAND_NOT_FOUND"), 127),
        (FailedPrecondition("no", reason="COMMAND_NOT_EXECUTABLE"), 126),
        (AlreadyExists("name in use", reason="NAME_IN_USE"), 125),
    ],
)
def test_run_fails_as_docker_does(error: FailedPrecondition, code: int, shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = error
    got, _, err = shoal("run", "busybox")
    assert got == code
    assert f"shoal: h1: {error.message}" in err
    h1.trouble.clear()
    assert shoal("-H", "dead", "run", "busybox")[0] == 125


def test_run_pulls_what_is_missing(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = NotFound("no such image", reason="IMAGE_NOT_FOUND")
    code, _, err = shoal("run", "busybox:1")
    assert code == 125
    assert "222222222222: Complete" in err
    assert h1.requests("Pull")[0].reference == "busybox:1"
    first, second = h1.requests("Run")
    assert first.request_id != second.request_id
    assert first.pull_policy == container_pb2.PULL_POLICY_NEVER


def test_run_never_pulls_when_told_so(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = NotFound("no such image", reason="IMAGE_NOT_FOUND")
    assert shoal("run", "--pull", "never", "busybox")[0] == 125
    assert not h1.requests("Pull")


def test_a_cidfile_is_new(shoal: Shoal, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    assert shoal("run", "-d", "--cidfile", str(path), "busybox")[0] == 0
    assert path.read_text() == "c" * 64
    assert shoal("run", "-d", "--cidfile", str(path), "busybox")[0] == 2
