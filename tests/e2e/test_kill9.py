"""A daemon killed under ten running containers loses none of them, nor what happened meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.daemon import Fleet, running_fleet, until
from tests.support.docker_registry import free_port

COUNT = 10
SCRIPT = "n=0; while [ ! -e /stop ]; do echo line $n; n=$((n+1)); sleep 0.1; done; echo last $n; exit $1"


@pytest.fixture
def host() -> Iterator[Fleet]:
    with running_fleet(1) as fleet:
        yield fleet


def talks(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2) as link:
            link.settimeout(5)
            return link.recv(16).startswith(b"here")
    except OSError:
        return False


def numbers(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("line ")]


def test_ten_containers_survive(host: Fleet, busybox: str) -> None:
    host.shoal("pull", busybox)
    ports = {}
    for index in range(COUNT):
        name = f"c{index}"
        if index < 5:
            script, publish = f"set -- {index}; {SCRIPT}", []
        else:
            ports[name] = free_port()
            script = "while true; do echo here | nc -l -p 9000; done"
            publish = ["-p", f"{ports[name]}:9000"]
        host.shoal("run", "-d", "--name", name, *publish, busybox, "sh", "-c", script)
    address = host.first.publish_address
    before = {row["Names"]: row for row in host.json("ps", "--no-trunc")}
    pids = host.shoal("inspect", "--format", "{{.State.Pid}}", *sorted(before)).stdout.split()
    for name, port in ports.items():
        until(lambda port=port: talks(address, port), what=f"{name} answers")

    host.first.kill()
    for name, port in ports.items():
        until(lambda port=port: talks(address, port), what=f"{name} answers without a daemon")
    host.first.start()

    after = {row["Names"]: row for row in host.json("ps", "--no-trunc")}
    assert sorted(after) == sorted(before)
    for name, row in after.items():
        assert (row["ID"], row["Ports"], row["State"]) == (before[name]["ID"], before[name]["Ports"], "running")
    assert host.shoal("inspect", "--format", "{{.State.Pid}}", *sorted(after)).stdout.split() == pids
    for name, port in ports.items():
        until(lambda port=port: talks(address, port), what=f"{name} answers the new daemon's rules")
    # Logs have no gap across the two daemons, and go on.
    seen = numbers(host.shoal("logs", "c0").stdout)
    assert seen == list(range(len(seen)))
    until(lambda: len(numbers(host.shoal("logs", "c0").stdout)) > len(seen), what="more lines")
    # The new daemon stops, starts and removes what the old one started.
    host.shoal("stop", "-t", "1", "c9")
    assert not talks(address, ports["c9"])
    host.shoal("start", "c9")
    until(lambda: talks(address, ports["c9"]), what="c9 answers again")


def test_what_ends_without_a_daemon_is_known_to_the_next(host: Fleet, busybox: str) -> None:
    for code in (0, 3, 42):
        host.shoal("run", "-d", "--name", f"e{code}", busybox, "sh", "-c", f"sleep 2; echo bye; exit {code}")
    host.shoal("run", "-d", "--name", "killed", busybox, "sleep", "1000")
    host.shoal("run", "-d", "--rm", "--name", "gone", busybox, "sleep", "2")
    host.shoal("run", "-d", "--restart", "always", "--name", "back", busybox, "sh", "-c", "echo up; sleep 2")
    pid = int(host.shoal("inspect", "--format", "{{.State.Pid}}", "killed").stdout)
    waiting = [int(host.shoal("inspect", "--format", "{{.State.Pid}}", f"e{code}").stdout) for code in (0, 3, 42)]
    host.first.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(os.path.exists(f"/proc/{each}") for each in waiting), what="their end")
    host.first.start()
    for code in (0, 3, 42):
        assert host.shoal("wait", f"e{code}").stdout.strip() == str(code)
        assert host.shoal("logs", f"e{code}").stdout == "bye\n"
    assert host.shoal("wait", "killed").stdout.strip() == "137"
    until(lambda: "gone" not in host.shoal("ps", "-a", "--format", "{{.Names}}").stdout.split(), what="--rm")
    until(lambda: host.shoal("logs", "back").stdout.count("up") >= 2, what="the restart")


def test_killed_while_it_starts_containers(host: Fleet, busybox: str) -> None:
    """Whatever the moment, the next daemon has either the whole container or none, and the name is free again."""
    host.shoal("pull", busybox)
    for attempt in range(4):
        client = subprocess.Popen(
            host.command("run", "-d", "--name", "victim", busybox, "sleep", "1000"),
            env=host.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.15 + 0.03 * attempt)
        host.first.kill()
        client.kill()
        client.wait()
        host.first.start()
        states = {row["State"] for row in host.json("ps", "-a")}
        assert states <= {"running", "exited", "created"}
        host.shoal("rm", "-f", "victim")
        host.shoal("run", "--rm", "--name", "victim", busybox, "true")
