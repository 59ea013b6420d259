"""The command's own standard streams: full, closed, silent for ever, or with a reader that has gone away."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from shoal.errors import NotFound
from shoalctl import app
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon, container, image, record

SHOAL = f"{sys.executable} -m shoalctl.main"
FULL = "shoal: can't write standard output: No space left on device\n"


def shell(config: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line in which `shoal` is the command; with what the standard streams do by default."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONUNBUFFERED", "SHOAL_DEBUG")}
    return subprocess.run(
        ["bash", "-c", f'shoal() {{ {SHOAL} "$@"; }}; {command}'],
        env={**env, "SHOAL_CONFIG": str(config), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    ["host list", "ps", "logs web", "--help", "run --help", "--version", "images --format {{.ID}}", "inspect web"],
)
def test_a_full_disk_is_told(arguments: str, unbuffered: str, config: Path, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    h1.images.append(image("docker.io/library/busybox:1"))
    h1.records = [record("line\n")]
    done = shell(config, f"shoal {arguments} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_full_disk_is_told_in_the_midst_of_much(config: Path, h1: FakeDaemon) -> None:
    h1.containers += [container(f"web{number}") for number in range(500)]
    done = shell(config, "shoal ps >/dev/full")
    assert (done.returncode, done.stderr) == (1, FULL)


def test_a_reader_that_has_enough_is_no_error(config: Path, h1: FakeDaemon) -> None:
    done = shell(config, "shoal host list | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["run --help", "ps", "images --format '{{json .}}'"])
def test_a_reader_that_has_enough_hears_nothing(arguments: str, unbuffered: str, config: Path, h1: FakeDaemon) -> None:
    h1.containers += [container(f"web{number}") for number in range(5000)]
    h1.images += [image(f"docker.io/library/busybox:{number}") for number in range(5000)]
    done = shell(config, f"shoal {arguments} | head -1 >/dev/null", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams(config: Path, h1: FakeDaemon) -> None:
    done = shell(config, "shoal host list >&- && shoal ps 2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(config, "shoal run -i busybox cat <&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert h1.requests("stdin_eof")


def test_a_live_view_ends_with_its_reader(config: Path, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    h1.hangs_after_output = True
    began = time.monotonic()
    done = shell(config, "shoal stats | head -1 >/dev/null; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("arguments", [["build", "-"], ["volume", "import", "v", "-"]])
def test_ctrl_c_while_standard_input_is_silent(arguments: list[str], config: Path, h1: FakeDaemon) -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "shoalctl.main", *arguments],
        env={**os.environ, "SHOAL_CONFIG": str(config)},
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as shoal:
        try:
            os.write(write, b"x")
            _until_read(read)
            shoal.send_signal(signal.SIGINT)
            shoal.communicate(timeout=10)
        finally:
            os.close(read)
            os.close(write)
    assert shoal.returncode == 130


def test_a_host_that_refuses_an_import_is_heard_while_standard_input_is_silent(config: Path, h1: FakeDaemon) -> None:
    h1.trouble["ImportVolume"] = NotFound("there is no volume v", reason="VOLUME_NOT_FOUND")
    began = time.monotonic()
    done = shell(config, "shoal volume import v - < <(sleep 20 2>/dev/null)")
    assert (done.returncode, done.stderr) == (1, "shoal: h1: there is no volume v\n")
    assert time.monotonic() - began < 15


def _until_read(pipe: int) -> None:
    deadline = time.monotonic() + 20
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_end_of_input_survives_a_cut_link(config: Path, h1: FakeDaemon) -> None:
    h1.breaks["StdinEof"] = 1
    done = shell(config, "echo hello | shoal run -i busybox cat")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert [request.start.stdin for request in h1.requests("Attach")] == [True, True]
    assert len(h1.requests("stdin_eof")) == 2


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_defect_is_one_line(debug: str, shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setenv("SHOAL_DEBUG", debug)
    monkeypatch.setattr(app, "app", broken)
    code, out, err = shoal("ps")
    first, *more = err.splitlines()
    assert (code, out, first) == (1, "", "shoal: internal error: KeyError: 'x'")
    assert bool(more) is bool(debug)
