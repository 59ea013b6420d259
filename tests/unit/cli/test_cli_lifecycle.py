"""The verbs of a container's life; and what ps, wait and start can besides."""

from __future__ import annotations

import json

import pytest

from shoal.errors import FailedPrecondition
from shoal.v1 import container_pb2
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon, container

pytestmark = pytest.mark.usefixtures("config")


def test_create_takes_the_flags_of_run(shoal: Shoal, h1: FakeDaemon) -> None:
    code, out, err = shoal("create", "-it", "--name", "web", "-m", "64m", "--health-cmd", "true", "busybox", "sh", "-d")
    assert (code, out) == (0, "c" * 64 + "\n")
    assert "mind the gap" in err
    (request,) = h1.requests("Create")
    assert (request.spec.name, request.spec.tty, list(request.spec.command)) == ("web", True, ["sh", "-d"])
    assert request.spec.resources.memory_bytes == 64 << 20
    assert list(request.spec.health_check.test) == ["CMD-SHELL", "true"]
    assert request.request_id
    assert not h1.requests("Start")
    assert shoal("create", "-d", "busybox")[0] == 2
    assert shoal("container", "create", "busybox")[0] == 0


def test_restart_pause_unpause_rename(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    assert shoal("restart", "-t", "3", "-s", "int", "web")[:2] == (0, "web\n")
    (request,) = h1.requests("Restart")
    assert (request.timeout.seconds, request.signal) == (3, "int")
    assert shoal("pause", "web")[:2] == (0, "web\n")
    assert "(Paused)" in shoal("ps")[1]
    assert shoal("ps", "--format", "{{.State}}")[1] == "paused\n"
    assert shoal("inspect", "-f", "{{.State.Paused}} {{.State.Status}}", "web")[1] == "true paused\n"
    assert shoal("unpause", "web", "none")[0] == 3
    assert shoal("rename", "web", "shop")[:2] == (0, "")
    assert h1.containers[0].name == "shop"
    assert shoal("rename", "shop", "")[0] == 2


def test_update(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal("update", "-m", "64m", "--cpus", "-1", "--pids-limit", "-1", "--restart", "always", "web")
    assert (code, out) == (0, "web\n")
    assert "half of it" in err
    (request,) = h1.requests("Update")
    assert (request.memory_bytes, request.nano_cpus, request.pids_limit) == (64 << 20, -1, -1)
    assert not request.HasField("cpu_shares")
    assert request.restart_policy.name == container_pb2.RESTART_POLICY_NAME_ALWAYS
    for wrong in (["web"], ["--restart", "sometimes", "web"], ["-m", "lots", "web"], ["--blkio-weight", "-2", "web"]):
        assert shoal("update", *wrong)[0] == 2


def test_top_diff_commit_port(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(
        container("web", ports=[container_pb2.PortMapping(host_ip="127.0.0.1", host_port=8080, container_port=80)])
    )
    assert shoal("top", "web", "-o", "pid,args")[:2] == (0, "PID   CMD\n42    sleep  1\n43\n")
    assert list(h1.requests("Top")[0].ps_arguments) == ["-o", "pid,args"]
    assert shoal("top", "-g", "both", "web")[0] == 3
    h1.breaks = {"Changes": 1}
    assert shoal("diff", "web")[:2] == (0, "C /etc\nA /etc/new\nD /old\\x0a\n")
    commit = ("commit", "-a", "me", "-m", "why", "-c", "USER 7", "-c", "ENV A=b", "--no-pause", "web", "me/app:2")
    assert shoal(*commit)[:2] == (0, f"sha256:{'7' * 64}\n")
    (request,) = h1.requests("Commit")
    assert (request.author, request.message, list(request.changes)) == ("me", "why", ["USER 7", "ENV A=b"])
    assert (request.reference, request.no_pause) == ("me/app:2", True)
    assert shoal("port", "web")[:2] == (0, "80/tcp -> 127.0.0.1:8080\n")
    assert shoal("port", "web", "80")[:2] == (0, "127.0.0.1:8080\n")
    assert shoal("port", "web", "80/udp")[0] == 1
    assert shoal("port", "web", "x")[0] == 2


def test_stats_of_several_hosts_with_one_that_fails(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.containers += [container("b", "b"), container("a")]
    h2.containers.append(container("c", "c"))
    h1.breaks = {"Stats": 1}
    code, out, err = shoal("stats", "--no-stream", "-H", "h1,h2,dead")
    assert code == 3
    assert "dead" in err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:3] == ["HOST", "CONTAINER", "ID"]
    assert [line[:3] for line in lines[1:]] == [["h1", "a" * 12, "a"], ["h1", "b" * 12, "b"], ["h2", "c" * 12, "c"]]
    assert lines[1][3:] == ["25.60%", "1MiB", "/", "4MiB", "25.00%", "1kB", "/", "2kB", "0B", "/", "0B", "3"]
    rows = [json.loads(line) for line in shoal("stats", "--no-stream", "--format", "json", "a")[1].splitlines()]
    assert [row["MemoryBytes"] for row in rows] == [1 << 20, 1 << 20]
    code, out, err = shoal("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "a", "none")
    assert (code, out) == (1, "a 3\nb 3\n") or (code, out) == (1, "b 3\na 3\n")
    assert "no container 'none'" in err


def test_stats_of_what_does_not_run_and_live(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("a"))
    code, out, _ = shoal("stats", "--format", "{{.Name}}")
    assert code == 0
    assert set(out.split()) == {"a"}
    assert [request.one_shot for request in h1.requests("Stats")] == [False]
    assert shoal("stats", "--no-stream", "-a")[0] == 0
    assert h1.requests("List")[0].all


def test_prune(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    assert shoal("prune")[0] == 2
    filters = ("--filter", "label=a=1", "--filter", "until=1700000000")
    code, out, _ = shoal("container", "prune", "-f", "-g", "both", *filters)
    assert code == 0
    assert out.splitlines() == [f"h1 | {'a' * 64}", f"h2 | {'a' * 64}", "Total reclaimed space: 4kB"]
    (request,) = h1.requests("Prune")
    assert (request.labels[0].key, request.labels[0].value, request.until.seconds) == ("a", "1", 1_700_000_000)
    assert shoal("prune", "-f", "--filter", "until=never")[0] == 2


def test_filters_of_ps(shoal: Shoal, h1: FakeDaemon) -> None:
    healthy = container_pb2.HEALTH_STATUS_HEALTHY
    exited = container_pb2.CONTAINER_STATE_EXITED
    port = container_pb2.PortMapping(host_port=8080, container_port=80)
    h1.containers += [
        container("new", "c", health=healthy, size_bytes=1500, created_at={"seconds": 1_700_000_300}),
        container("mid", "b", state=exited, exit_code=3, created_at={"seconds": 1_700_000_200}),
        container("old", "a", ports=[port], created_at={"seconds": 1_700_000_100}),
    ]

    def names(*flags: str) -> list[str]:
        code, out, err = shoal("ps", "--format", "{{.Names}}", *flags)
        assert code == 0, err
        return out.split()

    assert names("-f", "health=healthy") == ["new"]
    assert h1.requests("List")[-1].health == healthy
    assert names("-f", "exited=3") == ["mid"]
    assert names("-f", "publish=8080") == names("-f", "publish=80/tcp") == ["old"]
    assert names("-f", "publish=80/udp") == []
    assert names("-f", "before=mid", "-a") == ["old"]
    assert names("-f", "since=mid") == ["new"]
    assert names("-a", "-f", "since=old") == ["new", "mid"]
    for flags, shown in (
        (("-n", "1", "-f", "publish=80/tcp"), ["old"]),
        (("-l", "-f", "exited=3"), ["mid"]),
        (("-n", "1", "-f", "before=new"), ["mid"]),
        (("-n", "5", "-f", "before=new"), ["mid", "old"]),
        (("-l", "-f", "name=old", "-f", "name=mid"), ["mid"]),
    ):
        assert names(*flags) == shown
        assert (h1.requests("List")[-1].limit, h1.requests("List")[-1].all) == (0, True)
    assert names("-n", "2") == ["new", "mid"]
    shoal("ps", "-n", "2", "-f", "health=healthy", "-f", "label=a")
    assert h1.requests("List")[-1].limit == 2
    shoal("ps", "-f", "network=front", "-f", "volume=data")
    assert (h1.requests("List")[-1].network, h1.requests("List")[-1].volume) == ("front", "data")
    before = len(h1.requests("List"))
    assert names("-n", "1", "-f", "network=front", "-f", "network=back", "-f", "volume=a", "-f", "volume=b") == ["new"]
    asked = [(each.network, each.volume, each.limit) for each in h1.requests("List")[before:]]
    assert asked == [("front", "a", 0), ("front", "b", 0), ("back", "a", 0), ("back", "b", 0)]
    assert "SIZE" in shoal("ps", "-s")[1]
    assert h1.requests("List")[-1].sizes
    assert "1.5kB" in shoal("ps", "--format", "{{.Size}}")[1]
    assert "(healthy)" in shoal("ps")[1]
    for wrong in ("health=fine", "exited=x", "nonsense=1"):
        assert shoal("ps", "-f", wrong)[0] == 2
    assert shoal("ps", "-f", "before=none")[0] == 1


def test_before_one_that_a_host_lacks(shoal: Shoal, h1: FakeDaemon, h2: FakeDaemon) -> None:
    h1.containers += [
        container("api", "c", created_at={"seconds": 1_700_000_100}),
        container("web", "b", created_at={"seconds": 1_700_000_200}),
    ]
    h2.containers.append(container("api", "d"))
    code, out, err = shoal("ps", "-g", "both", "-f", "before=web", "-f", "name=api", "--format", "{{.Host}} {{.Names}}")
    assert (code, out) == (3, "h1 api\n")
    assert "shoal: h2: no container 'web'" in err
    assert h1.requests("List")[-1].name == "api"


@pytest.mark.parametrize("verb", [("ps",), ("inspect", "web"), ("version",)])
def test_a_wrong_format_hides_no_error_of_a_host(shoal: Shoal, h1: FakeDaemon, verb: tuple[str, ...]) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal(*verb, "-g", "half", "--format", "{{.Nope}}")
    assert (code, out) == (2, "")
    assert "shoal: dead:" in err
    assert "unknown field '.Nope'" in err


def test_a_wrong_format_hides_no_missing_name(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    code, out, err = shoal("inspect", "--format", "{{.Nope}}", "web", "none")
    assert (code, out) == (2, "")
    assert "no container and no image 'none'" in err


def test_the_version_of_those_that_answer(shoal: Shoal) -> None:
    for field in ("{{.Version}}", "{{.Server.Version}}"):
        code, out, err = shoal("version", "-g", "half", "--format", field)
        assert (code, out) == (3, "9.9\n")
        assert "shoal: dead:" in err
        code, out, err = shoal("version", "-H", "dead", "--format", field)
        assert (code, out) == (1, "")
        assert "unknown field" not in err


def test_wait_for_health(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    assert shoal("wait", "--condition", "healthy", "web")[:2] == (0, "0\n")
    assert h1.requests("Wait")[0].condition == container_pb2.ContainerServiceWaitRequest.CONDITION_HEALTHY
    h1.trouble = {"Wait": FailedPrecondition("container web has no health check", reason="NO_HEALTH_CHECK")}
    code, _, err = shoal("wait", "--condition", "healthy", "web")
    assert code == 1
    assert "no health check" in err


def test_start_attached(shoal: Shoal, h1: FakeDaemon) -> None:
    from tests.support.fake_daemon import record

    h1.containers.append(container("web"))
    h1.records = [record("hello\n")]
    h1.exit_code = 5
    assert shoal("start", "-a", "web")[:2] == (5, "hello\n")
    assert h1.requests("Attach")[0].start.cursor == "start"
    assert len(h1.requests("Start")) == 1
    assert shoal("start", "-a", "web", "two")[0] == 2
    assert shoal("start", "-a", "-g", "both", "web")[0] == 2


def test_every_verb_of_container_is_there(shoal: Shoal) -> None:
    code, out, _ = shoal("container", "--help")
    assert code == 0
    for verb in ("create", "commit", "ls", "prune", "stats", "update", "wait"):
        assert f"  {verb} " in out
    code, _, err = shoal("container", "pasue")
    assert code == 2
    assert "pause" in err


def test_stop_takes_dockers_timeout_as_the_grace(shoal: Shoal, h1: FakeDaemon) -> None:
    h1.containers.append(container("web"))
    for flag in ("-t", "--time", "--timeout"):
        assert shoal("stop", flag, "3", "web")[:2] == (0, "web\n")
        assert shoal("--timeout", "9", "restart", flag, "4", "web")[:2] == (0, "web\n")
        assert (h1.requests("Stop")[-1].timeout.seconds, h1.requests("Restart")[-1].timeout.seconds) == (3, 4)
    assert shoal("ps", "--timeout", "3")[0] == 0
