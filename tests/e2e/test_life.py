"""A container's life by the command: create, start -a, pause, health, update, stats, diff, commit, prune; two hosts."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.daemon import Fleet


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never"
        time.sleep(0.1)


def test_create_start_and_restart(host: Fleet, busybox: str) -> None:
    made = host.shoal("create", "--name", "one", busybox, "sh", "-c", "echo hello; exit 7").stdout.strip()
    assert host.shoal("ps", "-a", "--format", "{{.State}}").stdout == "created\n"
    assert host.shoal("start", "-a", "one", code=7).stdout == "hello\n"
    assert host.shoal("start", "-a", "one", code=7).stdout == "hello\n"
    host.shoal("rename", "one", "two")
    assert host.json("ps", "-a")[0]["Names"] == "two"
    host.shoal("create", "--name", "two", busybox, "true", code=1)
    cat = host.shoal("create", "-i", busybox, "cat").stdout.strip()
    assert host.shoal("start", "-i", cat, stdin="to and fro\n").stdout == "to and fro\n"
    runs = host.shoal("run", "-d", "--name", "runs", busybox, "sleep", "1000").stdout.strip()
    assert host.shoal("restart", "-t", "0", "runs").stdout == "runs\n"
    assert host.shoal("ps", "-q", "--no-trunc").stdout.strip() == runs
    assert host.shoal("container", "prune", "-f").stdout.splitlines()[:2] == [cat, made]
    events = host.shoal("events", "--since", "10m", "--until", "0s", "-f", "container=runs", "--format", "{{.Action}}")
    assert events.stdout.split()[-5:] == ["kill", "die", "stop", "start", "restart"]
    host.shoal("rm", "-f", "runs")


def test_pause_is_shown_and_refuses_exec(host: Fleet, busybox: str) -> None:
    host.shoal("run", "-d", "--name", "still", busybox, "sleep", "1000")
    host.shoal("pause", "still")
    assert host.shoal("ps", "--format", "{{.Status}}", "-f", "status=paused").stdout.endswith("(Paused)\n")
    assert "paused" in host.shoal("exec", "still", "true", code=None).stderr
    assert "already paused" in host.shoal("pause", "still", code=1).stderr
    host.first.restart()
    assert host.json("ps")[0]["State"] == "paused"
    host.shoal("unpause", "still")
    host.shoal("exec", "still", "true")
    host.shoal("rm", "-f", "still")


def test_health_is_shown_and_waited_for(host: Fleet, busybox: str) -> None:
    check = ("--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "2")
    host.shoal("run", "-d", "--name", "ill", *check, busybox, "sleep", "1000")
    until(lambda: "(unhealthy)" in host.shoal("ps").stdout)
    host.shoal("exec", "ill", "touch", "/well")
    assert host.shoal("wait", "--condition", "healthy", "ill").stdout == "0\n"
    assert host.shoal("ps", "-q", "-f", "health=healthy").stdout
    health = host.shoal("inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "ill").stdout
    assert health == "healthy 0\n"
    events = host.shoal("events", "--since", "10m", "--until", "0s", "-f", "container=ill", "--format", "{{.Action}}")
    assert "health_status: unhealthy\n" in events.stdout
    assert "health_status: healthy\n" in events.stdout
    assert host.shoal("stop", "-t", "0", "ill").stdout == "ill\n"
    assert "not running" in host.shoal("wait", "--condition", "healthy", "ill", code=1).stderr
    host.shoal("rm", "ill")


def test_update_stats_top_port_and_sizes(host: Fleet, busybox: str) -> None:
    host.shoal("run", "-d", "--name", "busy", "-m", "64m", "-p", "80", busybox, "sh", "-c", "while :; do :; done")
    host.shoal("update", "-m", "128m", "--cpus", "0.5", "--restart", "on-failure:2", "busy")
    found = host.shoal("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}", "busy").stdout
    assert found == f"{128 << 20} on-failure\n"
    row = host.json("stats", "--no-stream", "busy")[0]
    assert row["MemoryLimitBytes"] == 128 << 20
    assert 0 < float(row["CPUPerc"].rstrip("%")) < 120
    assert "while" in host.shoal("top", "busy", "-eo", "pid,args").stdout
    assert host.shoal("port", "busy", "80").stdout.startswith(host.first.publish_address)
    host.shoal("exec", "busy", "sh", "-c", "head -c 100000 /dev/zero > /big")
    assert host.json("ps", "-s")[0]["SizeBytes"] >= 100000
    host.shoal("rm", "-f", "busy")


def test_diff_and_commit(host: Fleet, busybox: str) -> None:
    host.shoal("run", "--name", "made", busybox, "sh", "-c", "echo new > /file; rm /bin/ls")
    assert host.shoal("diff", "made").stdout == "C /bin\nD /bin/ls\nA /file\n"
    image = host.shoal("commit", "-m", "why", "-c", 'CMD ["cat", "/file"]', "made", "from/container").stdout.strip()
    assert image.startswith("sha256:")
    assert host.shoal("run", "--rm", "from/container").stdout == "new\n"
    host.shoal("run", "--rm", image, "ls", code=127)
    assert "not a valid change" in host.shoal("commit", "-c", "RUN true", "made", code=1).stderr
    host.shoal("rm", "made")
    host.shoal("rmi", "from/container")


def test_several_hosts_and_one_that_is_dead(fleet: Fleet, busybox: str) -> None:
    fleet.shoal("run", "-d", "--name", "both", busybox, "sleep", "1000")
    fleet.add_host("dead", "127.0.0.1:1")
    try:
        done = fleet.shoal("stats", "--no-stream", "-H", "h1,h2,dead", "--timeout", "2", code=3)
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["HOST", "h1", "h2"]
        assert "dead" in done.stderr
        assert fleet.shoal("pause", "-H", "h1", "both").stdout == "both\n"
        states = {row["Host"]: row["State"] for row in fleet.json("ps")}
        assert states == {"h1": "paused", "h2": "running"}
    finally:
        fleet.remove_host("dead")
        fleet.remove_containers()
