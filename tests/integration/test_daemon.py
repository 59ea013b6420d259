"""The daemon as a process: start, signals, refusals to start. The engine is a fake one, all else is real."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from shoal.pki import Role
from shoal.v1 import system_pb2
from shoal.v1.system_pb2_grpc import SystemServiceStub
from shoald import lock
from tests.support.api_server import Fleet, credentials
from tests.support.docker_registry import free_port

HERE = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys
from shoald import compose, daemon, main
from tests.support.fake_engine import fake_engine
compose.build_engine = fake_engine
daemon.serve.__defaults__ = (None, fake_engine)
sys.exit(main.main(sys.argv[1:]))
"""


@dataclass
class Process:
    """A daemon and its log."""

    child: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, event: str) -> dict[str, object]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for entry in self.events():
                if entry["event"] == event:
                    return entry
            assert self.child.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{event!r} is not in the log: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return self.child.wait(30)


def _arguments(directory: Path, *more: str) -> list[str]:
    base = ["--root", str(directory / "root"), "--run-dir", str(directory / "run"), "--log-format", "json"]
    return ["serve", *base, *(() if "--metrics-listen" in more else ("--metrics-listen", "")), *more]


@contextmanager
def daemon(directory: Path, *more: str, env: dict[str, str] | None = None) -> Iterator[Process]:
    log = directory / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-c", PROGRAM, *_arguments(directory, *more)]
        child = subprocess.Popen(command, cwd=HERE, stderr=file, stdout=file, env={**os.environ, **(env or {})})
    process = Process(child, log)
    try:
        yield process
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _refused(directory: Path, *more: str) -> tuple[int, str]:
    """Exit code and output of a daemon that does not start."""
    command = [sys.executable, "-c", PROGRAM, *_arguments(directory, *more)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


async def _ping(target: str, trust: grpc.ChannelCredentials | None = None) -> None:
    opened = grpc.aio.secure_channel(target, trust) if trust else grpc.aio.insecure_channel(target)
    async with opened as channel:
        await SystemServiceStub(channel).Ping(system_pb2.SystemServicePingRequest(), timeout=10)


def _tls_flags(directory: Path) -> list[str]:
    return [
        f"--tls-cert={directory / 'host.pem'}",
        f"--tls-key={directory / 'host.key'}",
        f"--tls-ca={directory / 'ca.pem'}",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_socket_tls_and_metrics_and_ends_well(tmp_path: Path, number: int) -> None:
    fleet, port, metrics = Fleet.make(tmp_path), free_port(), free_port()
    flags = [*_tls_flags(tmp_path), f"--listen=127.0.0.1:{port}", "--metrics-listen", f"127.0.0.1:{metrics}"]
    with daemon(tmp_path, *flags) as process:
        process.wait_for("ready")
        await _ping(f"unix:{tmp_path}/run/api/shoald.sock")
        await _ping(f"127.0.0.1:{port}", credentials(fleet.ca.cert_pem, fleet.user("a", Role.READER)))
        text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode()
        assert 'shoald_rpcs_total{code="OK",method="/shoal.v1.SystemService/Ping"} 2.0' in text
        assert 'shoald_containers{state="running"} 1.0' in text
        assert re.search(r"^shoald_tasks [1-9]\d?\.0$", text, re.M)
        assert lock.holder(tmp_path / "run") == process.child.pid
        assert process.stop(number) == 0
    assert lock.holder(tmp_path / "run") is None
    assert not (tmp_path / "run/api/shoald.sock").exists()
    assert process.events()[-1]["event"] == "stopped; containers go on"


def test_metrics_answer_get_only_and_mutate_nothing(tmp_path: Path) -> None:
    port = free_port()
    with daemon(tmp_path, "--metrics-listen", f"127.0.0.1:{port}") as process:
        process.wait_for("ready")

        def status(method: str, path: str) -> int:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
            try:
                return int(urllib.request.urlopen(request, timeout=10).status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        assert [status("GET", "/metrics"), status("HEAD", "/metrics"), status("GET", "/metrics?x=1")] == [200] * 3
        assert [status(method, "/metrics") for method in ("POST", "PUT", "DELETE")] == [405] * 3
        assert [status("GET", path) for path in ("/", "/quit", "/metrics/..")] == [404] * 3
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"GET /" + b"x" * 100_000)
            try:
                assert rude.recv(100) == b""
            except ConnectionResetError:
                pass
        assert status("GET", "/metrics") == 200


def test_idle_memory_stays_small(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        process.wait_for("ready")
        status = Path(f"/proc/{process.child.pid}/status").read_text()
    (kib,) = re.findall(r"VmRSS:\s+(\d+)", status)
    assert int(kib) < 90 * 1024


def test_hangup_changes_the_log_level_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "shoald.toml"
    file.write_text('log_level = "error"\n')
    with daemon(tmp_path, "--config", str(file), "--log-level", "info") as process:
        process.wait_for("ready")
        file.write_text("log_level = nonsense\n")
        process.child.send_signal(signal.SIGHUP)
        process.wait_for("reload failed; nothing changed")
        file.write_text("[network]\nmtu = 1400\n")
        process.child.send_signal(signal.SIGHUP)
        process.wait_for("some changes in the configuration need a restart")
        assert process.stop() == 0


async def test_it_tells_systemd_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with daemon(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:
            assert b"READY=1" in manager.recv(4096)
            await _ping(f"unix:{tmp_path}/run/api/shoald.sock")
            assert process.stop() == 0
            assert b"STOPPING=1" in manager.recv(4096)


def test_a_kill_leaves_a_socket_and_a_lock_that_hinder_nobody(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        process.wait_for("ready")
        process.child.kill()
        process.child.wait()
    assert (tmp_path / "run/api/shoald.sock").exists()
    assert lock.holder(tmp_path / "run") is None
    with daemon(tmp_path) as process:
        process.wait_for("ready")
        assert process.stop() == 0


def test_a_second_daemon_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        process.wait_for("ready")
        code, said = _refused(tmp_path)
        assert code == 1
        assert "another shoald uses" in said
        assert "--run-dir" in said
        assert process.stop() == 0


def test_a_port_in_use_is_named_with_a_remedy(tmp_path: Path) -> None:
    Fleet.make(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in ([*_tls_flags(tmp_path), "--listen", address], ["--metrics-listen", address]):
            code, said = _refused(tmp_path, *flags)
            assert code == 1
            assert f"can't listen on {address}: another program has this port" in said
            assert "ss -ltnp" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
def test_no_tcp_listener_without_tls_not_even_on_loopback(tmp_path: Path, host: str) -> None:
    code, said = _refused(tmp_path, "--listen", f"{host}:7443")
    assert code == 2
    assert "can't be served without TLS" in said
    assert "shoal pki" in said
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--config", "/nonexistent.toml"], 1, "does not exist"),
        (["--log-level", "loud"], 2, "log_level"),
        (["--root", "relative"], 2, "not an absolute path"),
        (["--socket", "off"], 2, "out of reach"),
        (["--tls-deny-list", "/nonexistent"], 2, "can't read the deny list"),
        (["--no-such-flag"], 2, "unrecognized arguments"),
        (["--root", "/proc/shoal"], 1, "can't use the data directory"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(
    tmp_path: Path, flags: Sequence[str], code: int, message: str
) -> None:
    got, said = _refused(tmp_path, *flags)
    assert got == code, said
    assert message in said


def test_an_expired_certificate_is_named(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path)
    fleet.serve_as(fleet.user("not-a-host", Role.ADMIN))
    code, said = _refused(tmp_path, *_tls_flags(tmp_path), "--listen=127.0.0.1:0")
    assert code == 1
    assert "made for a user, not for a host" in said
