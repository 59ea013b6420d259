"""The whole way from one client to two hosts: pull, build, run, list, logs, stop; and a host that is down."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet, running_fleet, until
from tests.support.docker_registry import free_port

DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS maker
ARG GREETING=hi
WORKDIR /made
COPY page.html .
RUN echo "$GREETING from the build" >> page.html && echo to-stderr >&2
FROM ${BASE}
COPY --from=maker /made/page.html /www/index.html
ENV PORT=8000
EXPOSE 8000
LABEL kind=web
ENTRYPOINT ["httpd", "-f", "-v", "-h", "/www", "-p", "8000"]
"""


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "fleet" in request.fixturenames:
        request.getfixturevalue("fleet").remove_containers()


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        get(url)
    except OSError:
        return False
    return True


def test_pull_shows_on_both_hosts(fleet: Fleet, busybox: str) -> None:
    done = fleet.shoal("pull", busybox)
    assert {line.split(" | ")[0] for line in done.stdout.splitlines()} == {"h1", "h2"}
    rows = fleet.json("images")
    assert {row["Host"] for row in rows if f"{row['Repository']}:{row['Tag']}" == busybox} == {"h1", "h2"}


def test_build_run_curl_logs_stop_remove(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "page.html").write_text("page\n")
    (tmp_path / "secret.txt").write_text("not to be sent")
    (tmp_path / ".dockerignore").write_text("*\n!page.html\n")
    built = fleet.shoal(
        "build", "-t", "web:1", "--build-arg", f"BASE={busybox}", "--build-arg", "GREETING=yo", tmp_path
    )
    assert "to-stderr" in built.stderr + built.stdout
    inspected = json.loads(fleet.shoal("inspect", "-H", "h1", "web:1").stdout)[0]
    assert inspected["Config"]["Entrypoint"][0] == "httpd"
    assert inspected["Config"]["Labels"] == {"kind": "web"}
    assert "PORT=8000" in inspected["Config"]["Env"]

    port = free_port()
    fleet.shoal("run", "-d", "--name", "web", "-p", f"{port}:8000", "web:1")
    for daemon in fleet.daemons:
        url = f"http://{daemon.publish_address}:{port}/"
        until(lambda url=url: answers(url), what=url)
        assert get(url) == "page\nyo from the build\n"
    rows = fleet.json("ps")
    assert [(row["Host"], row["State"]) for row in sorted(rows, key=lambda row: str(row["Host"]))] == [
        ("h1", "running"),
        ("h2", "running"),
    ]
    until(lambda: "response:200" in fleet.shoal("logs", "-H", "h1", "web").stderr, what="a line in the log")
    fleet.shoal("stop", "-t", "2", "web")
    assert not fleet.json("ps")
    assert {row["State"] for row in fleet.json("ps", "-a")} == {"exited"}
    for daemon in fleet.daemons:
        assert not answers(f"http://{daemon.publish_address}:{port}/")
    fleet.shoal("rm", "web")
    assert not fleet.json("ps", "-a")
    fleet.shoal("rmi", "web:1")


def test_a_second_build_comes_from_the_cache(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN date +%N > /made\nRUN echo last\n")
    first = fleet.shoal("build", "-q", "-H", "h1", tmp_path).stdout.split()[-1]
    again = fleet.shoal("build", "-q", "-H", "h1", tmp_path).stdout.split()[-1]
    anew = fleet.shoal("build", "-q", "-H", "h1", "--no-cache", tmp_path).stdout.split()[-1]
    assert first == again
    assert anew != first


def test_foreground_run_tells_streams_apart_and_exits_with_the_code(fleet: Fleet, busybox: str) -> None:
    script = "cat; echo out; echo err >&2; exit 7"
    done = fleet.shoal("run", "--rm", "-i", "-H", "h1", busybox, "sh", "-c", script, stdin="typed\n", code=7)
    assert done.stdout == "typed\nout\n"
    assert done.stderr == "err\n"
    assert not fleet.json("ps", "-a", "-H", "h1")


def test_foreground_run_on_two_hosts_marks_the_lines(fleet: Fleet, busybox: str) -> None:
    done = fleet.shoal("run", "--rm", busybox, "echo", "hello")
    assert sorted(line for line in done.stdout.splitlines()) == ["h1 | hello", "h2 | hello"]


def test_logs_tail_timestamps_and_follow(fleet: Fleet, busybox: str) -> None:
    fleet.shoal(
        "run",
        "-d",
        "--name",
        "talk",
        "-H",
        "h1",
        busybox,
        "sh",
        "-c",
        "for n in 1 2 3; do echo $n; done; sleep 1; echo 4",
    )
    followed = fleet.shoal("logs", "-f", "-H", "h1", "talk")
    assert followed.stdout == "1\n2\n3\n4\n"
    assert fleet.shoal("logs", "--tail", "2", "-H", "h1", "talk").stdout == "3\n4\n"
    first = fleet.shoal("logs", "-t", "-H", "h1", "talk").stdout.splitlines()[0]
    assert first.endswith(" 1")
    assert first[4] == "-"
    assert fleet.shoal("wait", "-H", "h1", "talk").stdout.strip() == "0"


def test_start_kill_tag_and_events(fleet: Fleet, busybox: str) -> None:
    container = fleet.shoal("run", "-d", "--name", "again", "-H", "h1", busybox, "sleep", "1000").stdout.strip()
    fleet.shoal("kill", "-s", "KILL", "-H", "h1", "again")
    assert fleet.shoal("wait", "-H", "h1", "again").stdout.strip() == "137"
    fleet.shoal("start", "-H", "h1", "again")
    [row] = fleet.json("ps", "-H", "h1", "--no-trunc")
    assert row["ID"] == container
    fleet.shoal("tag", "-H", "h1", busybox, "mine:2")
    assert any(row["Repository"] == "mine" and row["Tag"] == "2" for row in fleet.json("images", "-H", "h1"))
    fleet.shoal("rmi", "-H", "h1", "mine:2")
    events = fleet.shoal("events", "-H", "h1", "--since", "10m", "--until", "0s", "--format", "json").stdout
    actions = [json.loads(line)["Action"] for line in events.splitlines()]
    for action in ("create", "start", "die", "tag", "untag"):
        assert action in actions


def test_one_dead_host_is_a_row_and_exit_code_3(busybox: str) -> None:
    with running_fleet(2) as fleet:
        fleet.shoal("pull", busybox)
        fleet.daemons[1].kill()
        done = fleet.shoal("run", "-d", "--name", "alone", busybox, "sleep", "1000", code=3)
        assert "h1 | " in done.stdout
        assert "h2" in done.stderr
        listed = fleet.shoal("ps", code=3)
        assert "alone" in listed.stdout
        assert "h2" in listed.stderr + listed.stdout
        rows = [json.loads(line) for line in fleet.shoal("ps", "--format", "json", code=3).stdout.splitlines()]
        assert [row["Names"] for row in rows if row["Host"] == "h1"] == ["alone"]
        fleet.daemons[0].kill()
        fleet.shoal("ps", code=1)
        for daemon in fleet.daemons:
            daemon.start()
        assert [row["Names"] for row in fleet.json("ps")] == ["alone"]
