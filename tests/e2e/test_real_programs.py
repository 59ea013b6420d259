"""Real programs from Debian in containers, made, run and looked after with `shoal` alone."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.daemon import Fleet, until
from tests.support.debian import push_debian
from tests.support.docker_registry import DockerRegistry, free_port

PROGRAMS = Path(__file__).parent / "programs"
MIB = 1 << 20
pytestmark = pytest.mark.timeout(900)  # the first build fetches packages from Debian's mirror


@pytest.fixture(scope="module")
def image(host: Fleet, registry: DockerRegistry) -> str:
    """All of the programs, built by the host from a minimal Debian."""
    base = push_debian(registry.address)
    host.shoal("build", "-t", "programs", "--build-arg", f"BASE={base}", "--progress", "plain", PROGRAMS, timeout=800)
    return "programs"


@pytest.fixture(autouse=True)
def nothing_is_left(host: Fleet) -> Iterator[None]:
    """Containers, volumes and networks of a test go with it."""
    yield
    host.remove_containers()
    for name in host.shoal("volume", "ls", "-q").stdout.split():
        host.shoal("volume", "rm", name)
    host.shoal("network", "prune", "-f")


def inspected(host: Fleet, name: str) -> dict[str, Any]:
    """What `shoal inspect` has of a container."""
    (found,) = json.loads(host.shoal("inspect", "--type", "container", name).stdout)
    return dict(found)


def psql(host: Fleet, line: str) -> str:
    """What PostgreSQL answers, without decoration."""
    return host.shoal("exec", "db", "psql", "-h", "/tmp", "-qAtX", "-c", line, "postgres").stdout.strip()


def start_postgres(host: Fleet, image: str) -> None:
    """A server with its data in the volume `data`, and wait until it is healthy."""
    host.shoal(
        *("run", "-d", "--name", "db", "-u", "postgres", "-v", "data:/var/lib/postgresql/data", "--shm-size", "128m"),
        *("--stop-signal", "INT", "--health-cmd", "pg_isready -q -h /tmp", "--health-interval", "1s"),
        *("--health-start-period", "60s", "--health-start-interval", "200ms", image, "postgres.sh"),
    )
    host.shoal("wait", "--condition", "healthy", "db")


def test_postgres_keeps_its_data_in_a_volume(host: Fleet, image: str, tmp_path: Path) -> None:
    host.shoal("volume", "create", "--label", "tier=db", "data")
    start_postgres(host, image)
    assert "(healthy)" in host.shoal("ps", "--format", "{{.Status}}").stdout
    assert inspected(host, "db")["State"]["Health"]["Status"] == "healthy"

    (tmp_path / "schema.sql").write_text(
        "create table fish (name text primary key, weight int);\n"
        "insert into fish select 'fish' || n, n from generate_series(1, 20000) n;\n"
    )
    host.shoal("cp", tmp_path / "schema.sql", "db:/tmp/schema.sql")
    host.shoal("exec", "db", "psql", "-h", "/tmp", "-qX", "-v", "ON_ERROR_STOP=1", "-f", "/tmp/schema.sql", "postgres")
    assert psql(host, "select count(*), sum(weight) from fish") == "20000|200010000"

    # A dump through exec's streams, back onto this machine.
    dump = host.shoal("exec", "db", "pg_dump", "-h", "/tmp", "-t", "fish", "postgres").stdout
    assert dump.count("\nfish") == 20000

    # Stopped as PostgreSQL wants it, and removed: only the volume stays.
    host.shoal("stop", "-t", "60", "db")
    assert inspected(host, "db")["State"]["ExitCode"] == 0
    assert "database system is shut down" in host.shoal("logs", "db").stderr
    host.shoal("rm", "db")
    assert host.shoal("volume", "ls", "-q").stdout.split() == ["data"]
    start_postgres(host, image)
    assert psql(host, "select weight from fish where name = 'fish777'") == "777"

    # Killed in the middle of work, and started again: PostgreSQL's own recovery finds all that was committed.
    psql(host, "insert into fish values ('last', 1)")
    host.shoal("kill", "db")
    host.shoal("wait", "db")
    host.shoal("start", "db")
    host.shoal("wait", "--condition", "healthy", "db")
    assert psql(host, "select count(*) from fish") == "20001"
    assert "was not properly shut down" in host.shoal("logs", "db").stderr


def test_postgres_that_hangs_is_unhealthy(host: Fleet, image: str) -> None:
    """SIGSTOP: it accepts connections and answers none."""
    host.shoal(
        *("run", "-d", "--name", "db", "-u", "postgres", "-v", "/var/lib/postgresql/data"),
        *("--health-cmd", "pg_isready -q -h /tmp -t 1", "--health-interval", "500ms", "--health-retries", "2"),
        *("--health-start-period", "60s", "--health-start-interval", "200ms", image, "postgres.sh"),
    )
    host.shoal("wait", "--condition", "healthy", "db")
    host.shoal("kill", "-s", "STOP", "db")
    until(lambda: "(unhealthy)" in host.shoal("ps", "--format", "{{.Status}}").stdout, 60, "unhealthy")
    host.shoal("kill", "-s", "CONT", "db")
    host.shoal("wait", "--condition", "healthy", "db")


@contextmanager
def followed(host: Fleet, *names: str) -> Iterator[list[str]]:
    """Lines of `shoal logs -f`, as they come; the command ends by itself when its containers do."""
    lines: list[str] = []
    command = host.command("logs", "-f", *names)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=host.environment(), bufsize=1
    ) as process:
        assert process.stdout is not None
        reader = Thread(target=lines.extend, args=(process.stdout,))
        reader.start()
        try:
            yield lines
            assert process.wait(60) == 0, lines
        finally:
            process.kill()
            reader.join()


def get(host: Fleet, port: int, path: str) -> tuple[int, str]:
    """Ask the published port, as a client outside of all containers."""
    connection = http.client.HTTPConnection(host.first.publish_address, port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def test_nginx_in_front_of_a_service_by_name(host: Fleet, image: str) -> None:
    port = free_port(host.first.publish_address)
    host.shoal("network", "create", "web")

    def start_service(greeting: str) -> None:
        host.shoal(
            *("run", "-d", "--name", "service", "--network", "web", "-u", "www-data", "--read-only"),
            *("-e", f"GREETING={greeting}", "--hostname", greeting, image, "python3", "/usr/local/bin/service.py"),
        )
        ready = "import socket; socket.create_connection(('127.0.0.1', 8000), 5)"
        until(lambda: host.shoal("exec", "service", "python3", "-c", ready, code=None).returncode == 0)

    start_service("ahoy")
    # The configuration is a file of this machine: it is sent along.
    host.shoal(
        *("run", "-d", "--name", "front", "--network", "web", "-p", f"{port}:80"),
        *("-v", f"local:{PROGRAMS / 'proxy.conf'}:/etc/nginx/conf.d/proxy.conf", image),
        *("nginx", "-g", "daemon off;"),
    )
    with followed(host, "front", "service") as lines:
        until(lambda: get(host, port, "/first")[0] == 200, what="nginx answers")
        assert get(host, port, "/deep/path?x=1") == (200, "ahoy from ahoy at /deep/path?x=1\n")
        for who in ("GET /deep/path?x=1", "served GET /deep/path?x=1"):
            until(lambda who=who: any(who in line for line in lines), what=f"{who} in {lines}")

        # Another service takes the name; nginx finds it when it looks the name up again.
        host.shoal("rm", "-f", "service")
        start_service("hello")
        host.shoal("exec", "front", "nginx", "-s", "reload")
        until(lambda: get(host, port, "/again") == (200, "hello from hello at /again\n"), what="the new service")
        host.shoal("stop", "front")
        host.shoal("rm", "-f", "service")
    assert sum("/again" in line and "served" in line for line in lines) <= 1

    # Somebody who is not in the network neither finds the name nor reaches the address.
    start_service("inside")
    networks = inspected(host, "service")["NetworkSettings"]["Networks"]
    address = networks["web"]["IPAddress"]
    ask = "import sys, socket; socket.create_connection((sys.argv[1], 8000), 3)"
    for target in ("service", address):
        outside = host.shoal("run", "--rm", image, "python3", "-c", ask, target, code=1)
        assert "Traceback" in outside.stderr
    host.shoal("run", "--rm", "--network", "web", image, "python3", "-c", ask, "service")


def redis(host: Fleet, *words: str, code: int | None = 0) -> str:
    """What redis answers."""
    return host.shoal("exec", "cache", "redis-cli", *words, code=code).stdout.strip()


def fill(host: Fleet, megabytes: int, code: int | None = 0) -> str:
    """Store so much in redis, a MiB at a time; its last answer. The commands go in by exec's standard input."""
    lines = [f"eval \"return redis.call('set', 'key{n}', string.rep('x', {MIB}))\" 0" for n in range(megabytes)]
    done = host.shoal("exec", "-i", "cache", "redis-cli", stdin="\n".join([*lines, ""]), code=code)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def start_redis(host: Fleet, image: str, memory: str, *flags: str) -> None:
    """A server that keeps nothing on disk."""
    host.shoal(
        *("run", "-d", "--name", "cache", "-m", memory, "--memory-swap", memory, "-u", "redis", image),
        *("redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no", "--daemonize", "no", *flags),
    )
    until(lambda: redis(host, "ping", code=None) == "PONG", what="redis answers")


def used(host: Fleet) -> float:
    """Bytes that `shoal stats` shows for the container."""
    text = host.shoal("stats", "--no-stream", "--format", "{{.MemUsage}}", "cache").stdout
    number, unit = text.split("/")[0].strip().rstrip("B").removesuffix("i"), text.split("/")[0].strip()
    factor = {"K": 1 << 10, "M": MIB, "G": 1 << 30}.get(number[-1:], 1)
    assert unit, text
    return float(number.rstrip("KMGk")) * factor


def test_redis_stays_below_its_own_limit(host: Fleet, image: str) -> None:
    start_redis(host, image, "128m", "--maxmemory", "48mb", "--maxmemory-policy", "allkeys-lru")
    before = used(host)
    assert fill(host, 200) == "OK"
    assert 40 * MIB < used(host) < 128 * MIB
    assert used(host) > before + 30 * MIB
    assert int(redis(host, "dbsize")) < 60
    assert inspected(host, "cache")["HostConfig"]["Memory"] == 128 * MIB
    # The limit can be changed while it runs, and holds at once.
    host.shoal("update", "-m", "256m", "--memory-swap", "256m", "cache")
    redis(host, "config", "set", "maxmemory", "180mb")
    assert fill(host, 170) == "OK"
    assert used(host) > 128 * MIB


def test_redis_that_grows_beyond_the_containers_limit_is_killed_for_it(host: Fleet, image: str) -> None:
    start_redis(host, image, "64m")
    fill(host, 300, code=None)
    assert host.shoal("wait", "cache", code=None).stdout.strip() == "137"
    state = inspected(host, "cache")["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Running"]) == (True, 137, False)
    events = host.shoal("events", "--since", "10m", "--until", "0s", "--format", "json").stdout
    assert '"oom"' in events
