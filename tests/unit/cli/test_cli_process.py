"""The command as a process: pipes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.errors import NotFound
from tests.support.fake_daemon import FakeDaemon, container, record

pytestmark = pytest.mark.usefixtures("config")


def process(config: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "shoalctl.main", *arguments],
        env={**os.environ, "SHOAL_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_standard_input_reaches_the_container(config: Path, h1: FakeDaemon) -> None:
    with process(config, "run", "-i", "busybox", "cat", stdin=subprocess.PIPE) as shoal:
        out, _ = shoal.communicate(b"some\ninput\n", timeout=30)
    assert (shoal.returncode, out) == (0, b"some\ninput\n")
    assert bytes(h1.stdin) == b"some\ninput\n"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1")]
)
def test_signals_go_to_the_container(number: signal.Signals, name: str, config: Path, h1: FakeDaemon) -> None:
    h1.records = [record("up\n")]
    h1.exit_code = 143
    h1.hangs_after_output = True
    with process(config, "run", "busybox") as shoal:
        assert shoal.stdout is not None
        assert shoal.stdout.readline() == b"up\n"
        shoal.send_signal(number)
        shoal.communicate(timeout=30)
    assert shoal.returncode == 143
    assert [request.signal for request in h1.requests("Kill")] == [name]


def test_ctrl_c_cancels_a_pull_on_every_host(config: Path, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.hangs_after_output = h2.hangs_after_output = True
    with process(config, "pull", "-g", "both", "busybox") as shoal:
        until(lambda: h1.requests("Pull") and h2.requests("Pull"))
        shoal.send_signal(signal.SIGINT)
        _, err = shoal.communicate(timeout=30)
    assert shoal.returncode == 130
    assert b"cancelling on h1, h2" in err
    for host in (h1, h2):
        assert host.requests("Cancel")[0].request_id == host.requests("Pull")[0].request_id


def test_ctrl_c_while_run_pulls_cancels_the_pull(config: Path, h1: FakeDaemon) -> None:
    h1.trouble["Run"] = NotFound("no such image", reason="IMAGE_NOT_FOUND")
    h1.hangs_after_output = True
    with process(config, "run", "busybox") as shoal:
        until(lambda: h1.requests("Pull"))
        shoal.send_signal(signal.SIGINT)
        shoal.communicate(timeout=30)
    assert shoal.returncode == 130
    assert h1.requests("Cancel")[0].request_id == h1.requests("Pull")[0].request_id


def test_ctrl_c_while_a_container_starts_leaves_none(config: Path, h1: FakeDaemon) -> None:
    h1.slow["Run"] = 1.0
    with process(config, "run", "-d", "--name", "n", "busybox") as shoal:
        until(lambda: h1.requests("Run"))
        shoal.send_signal(signal.SIGINT)
        out, _ = shoal.communicate(timeout=30)
    assert (shoal.returncode, out) == (130, b"")
    assert len({request.request_id for request in h1.requests("Run")}) == 1
    assert [request.force for request in h1.requests("Remove")] == [True]


@pytest.mark.parametrize("arguments", [("logs", "-f", "web"), ("wait", "web")])
def test_ctrl_c_ends_what_only_watches(arguments: tuple[str, ...], config: Path, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    h1.slow = {"Logs": 30.0, "Wait": 30.0}
    with process(config, *arguments) as shoal:
        until(lambda: h1.requests("Logs") or h1.requests("Wait"))
        shoal.send_signal(signal.SIGINT)
        _, err = shoal.communicate(timeout=30)
    assert (shoal.returncode, err) == (130, b"")


def test_a_reader_that_goes_away_is_no_disaster(config: Path, h1: FakeDaemon) -> None:
    h1.records = [record("x" * 1000 + "\n") for _ in range(300)]
    h1.containers.append(container("web"))
    with process(config, "logs", "web") as shoal:
        assert shoal.stdout is not None
        assert shoal.stderr is not None
        shoal.stdout.readline()
        shoal.stdout.close()
        assert shoal.wait(timeout=30) == 1
        assert b"Traceback" not in shoal.stderr.read()
