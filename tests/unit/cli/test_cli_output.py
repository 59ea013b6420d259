"""Targets, lists, usage errors and partial failures."""

from __future__ import annotations

import json
import re

import pytest

from shoal.v1 import container_pb2
from tests.support.cli import Shoal, golden
from tests.support.fake_daemon import FakeDaemon, at, container, image

pytestmark = pytest.mark.usefixtures("config")

EXITED = container_pb2.CONTAINER_STATE_EXITED


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours after the fake objects were made."""
    from datetime import UTC, datetime

    import shoalctl.commands.images
    import shoalctl.commands.ps

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls.fromtimestamp(1_700_007_200, UTC)

    monkeypatch.setattr(shoalctl.commands.ps, "datetime", Clock)
    monkeypatch.setattr(shoalctl.commands.images, "datetime", Clock)


def populate(h1: FakeDaemon, h2: FakeDaemon) -> None:
    port = container_pb2.PortMapping(host_ip="127.0.0.1", host_port=8080, container_port=80)
    h1.containers += [
        container("web", "a", ports=[port], labels={"tier": "web"}, ip_address="10.88.64.2", pid=42),
        container("job", "b", state=EXITED, exit_code=3, finished_at=at(), command=["sh", "-c", "a very long script"]),
    ]
    h2.containers.append(container("db", "d", state=container_pb2.CONTAINER_STATE_CREATED))
    h1.images += [image("docker.io/library/busybox:latest"), image("ghcr.io/a/b:1", "2", tags=[])]


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ps.txt", ["ps"]),
        ("ps-several.txt", ["ps", "-g", "both"]),
        ("ps-no-trunc.txt", ["ps", "--no-trunc"]),
        ("ps.json", ["-g", "both", "ps", "--format", "json"]),
        ("ps-template.txt", ["ps", "--format", "table {{.Host}}\t{{.Names}}\t{{.Status}}"]),
        ("images.txt", ["images"]),
        ("images.json", ["images", "--format", "json", "--no-trunc"]),
        ("inspect-container.json", ["inspect", "web"]),
        ("inspect-image.json", ["inspect", "busybox"]),
    ],
)
def test_golden_output(name: str, arguments: list[str], shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    populate(h1, h2)
    code, out, err = shoal(*arguments)
    assert (code, err) == (0, "")
    golden(name, out)


def test_targets_may_stand_before_and_after_the_verb(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    populate(h1, h2)
    assert shoal("-H", "h2", "ps", "-q")[1] == shoal("ps", "-q", "-H", "h2")[1] == "d" * 12 + "\n"
    assert shoal("-H", "h1", "ps", "-H", "h2", "-q")[1].count("\n") == 3
    assert shoal("-H", "h1,h2", "ps", "-q")[1].count("\n") == 3


def test_targets_of_the_environment(shoal: Shoal, h2: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HOSTS", "h2")
    assert shoal("ps")[0] == 0
    assert h2.requests("List")


def test_one_dead_host_is_a_row_and_not_the_end(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal("ps", "-g", "half", "--format", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert [row["Host"] for row in rows] == ["h1", "dead"]
    assert rows[1]["Reason"] == "HOST_UNREACHABLE"
    assert re.search(r"^shoal: dead: 127\.0\.0\.1:\d+ refuses connections\n  hint: .*shoald", err)


def test_all_hosts_dead(shoal: Shoal) -> None:
    code, out, err = shoal("-H", "dead", "ps")
    assert (code, out) == (1, "")
    assert "refuses connections" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-H", "nope", "ps"], "unknown host 'nope'"),
        (["-g", "nope", "ps"], "unknown group"),
        (["run", "-p", "x", "busybox"], "invalid port"),
        (["pull", "Busy//Box"], "invalid reference"),
        (["ps", "-f", "what=x"], "unknown filter"),
        (["ps", "-f", "status=what"], "unknown status"),
        (["--timeout", "0", "ps"], "invalid timeout"),
        (["run", "--rm", "--restart", "always", "busybox"], "contradict"),
        (["run", "-v", "./not-here:/y", "busybox"], "does not exist on this machine"),
        (["run", "-it", "busybox"], "terminal"),
        (["run", "-i", "-g", "both", "busybox"], "single host"),
        (["build", "nowhere"], "not a directory"),
        (["nope"], "not a shoal command"),
        (["ps", "--format", "{{.Nope}}"], "unknown field"),
    ],
)
def test_usage_errors(arguments: list[str], part: str, shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal(*arguments)
    assert (code, out) == (2, "")
    assert part in err
    assert not h1.requests("Run")
