"""Logs of real containers: rotation, drivers, several hosts, cut links, slow readers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet, running_fleet, until
from tests.support.docker_registry import free_port

COUNT = "n=0; while [ $n -lt {lines} ]; do echo $n; n=$((n+1)); done"
CHATTER = "n=0; while [ ! -e /stop ]; do echo $n; n=$((n+1)); {pause} done"


@pytest.fixture(scope="module")
def pair(busybox: str) -> Iterator[Fleet]:
    """Two hosts with the image."""
    with running_fleet(2) as fleet:
        fleet.shoal("pull", "--all", busybox)
        yield fleet


@pytest.fixture(autouse=True)
def cleared(pair: Fleet) -> Iterator[None]:
    yield
    pair.remove_containers()


def log_files(fleet: Fleet, name: str) -> list[Path]:
    """The files of a container's log on h1, the oldest first."""
    path = Path(fleet.json("inspect", "-H", "h1", name)[0]["LogPath"])
    return [*sorted(path.parent.glob("log.[0-9]*"), key=lambda each: int(each.suffix[1:])), path]


def gapless(text: str, count: int | None = None) -> None:
    """Every number once, in order."""
    got = [int(line) for line in text.split()]
    assert got == list(range(got[0], got[0] + len(got)))
    assert count is None or (got[0], len(got)) == (0, count)


class Cable:
    """A TCP proxy whose links can be cut, and which then refuses new ones until it is mended."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        assert self._listener is not None
        # A blocked accept() keeps a closed socket listening.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in list(self._open):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        source.close()
        self._open.discard(source)


@contextlib.contextmanager
def following(fleet: Fleet, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`shoal ...` in the background, its standard output in a file."""
    out = fleet.directory / f"out-{time.monotonic_ns()}"
    with out.open("wb") as file:
        process = subprocess.Popen(
            fleet.command(*arguments), stdout=file, stderr=subprocess.PIPE, env=fleet.environment(), cwd=fleet.directory
        )
        try:
            yield process, out
        finally:
            process.kill()
            process.communicate()


def test_no_line_is_lost_at_a_rotation(pair: Fleet, busybox: str) -> None:
    lines = 60_000
    options = ("--log-opt", "max-size=200k", "--log-opt", "max-file=100")
    pair.shoal("run", "-d", "-H", "h1", "--name", "much", *options, busybox, "sh", "-c", COUNT.format(lines=lines))
    followed = pair.shoal("logs", "-f", "-H", "h1", "much").stdout
    gapless(followed, lines)
    files = log_files(pair, "much")
    assert len(files) > 3
    gapless(pair.shoal("logs", "-H", "h1", "much").stdout, lines)
    assert pair.shoal("logs", "-n", "3", "-H", "h1", "much").stdout.split() == [str(lines - n) for n in (3, 2, 1)]
    # The next run goes on in the same log; attached clients see only their own.
    pair.shoal("start", "-H", "h1", "much")
    pair.shoal("wait", "-H", "h1", "much")
    assert len(pair.shoal("logs", "-H", "h1", "much").stdout.split()) == 2 * lines


@pytest.mark.parametrize("driver", ["local", "json-file"])
def test_size_and_number_of_files_are_kept(pair: Fleet, busybox: str, driver: str) -> None:
    options = ("--log-driver", driver, "--log-opt", "max-size=100k", "--log-opt", "max-file=3")
    run = ("run", "-d", "-H", "h1", "--name", "bounded", *options, busybox, "sh", "-c", CHATTER.format(pause=""))
    pair.shoal(*run)
    shown = pair.json("inspect", "-H", "h1", "bounded")[0]["HostConfig"]["LogConfig"]
    assert shown == {"Type": driver, "Config": {"max-size": "100k", "max-file": "3"}}
    until(lambda: int(log_files(pair, "bounded")[0].suffix[1:] or 0) > 3, what="some rotations")
    gapless(pair.shoal("logs", "-H", "h1", "bounded").stdout)
    # Another daemon takes the logs over.
    pair.first.kill()
    pair.first.start()
    seen = log_files(pair, "bounded")[0].name
    until(lambda: log_files(pair, "bounded")[0].name != seen, what="a rotation by the next daemon")
    until(lambda: len(log_files(pair, "bounded")) <= 3, what="no more than three files")
    gapless(pair.shoal("logs", "-H", "h1", "bounded").stdout)
    pair.shoal("kill", "-H", "h1", "bounded")


def test_a_cut_link_leaves_no_gap_and_no_duplicate(pair: Fleet, busybox: str) -> None:
    cable = Cable(pair.first.address)
    pair.add_host("far", f"127.0.0.1:{cable.port}")
    # Far more is written meanwhile than is kept: the place of a reader that was cut off is kept for it.
    options = ("--log-opt", "max-size=200k", "--log-opt", "max-file=3")
    run = ("run", "-d", "-H", "h1", "--name", "chatty", *options, busybox, "sh", "-c", CHATTER.format(pause=""))
    try:
        pair.shoal(*run)
        with following(pair, "logs", "-f", "-H", "far", "chatty") as (process, out):
            until(lambda: out.stat().st_size > 10_000, what="output")
            for _ in range(2):
                cable.cut()
                time.sleep(float(os.environ.get("SHOAL_TESTS_CUT_S", "2")))
                cable.mend()
                size = out.stat().st_size
                until(lambda size=size: out.stat().st_size > size + 100_000, 40, what="output after the cut")
            pair.shoal("kill", "-H", "h1", "chatty")
            assert process.wait(60) == 0
            got = out.read_text()
            gapless(got)
            assert got.endswith(pair.shoal("logs", "-H", "h1", "-n", "100", "chatty").stdout)
    finally:
        cable.cut()
        pair.remove_host("far")


def test_several_hosts_and_containers_as_one(pair: Fleet, busybox: str) -> None:
    script = "for n in 1 2 3; do echo $0 $n; sleep 0.2; done"
    for name in ("a", "b"):
        pair.shoal("run", "-d", "--all", "--name", name, "-l", "app=shop", busybox, "sh", "-c", script, name)
    pair.shoal("run", "-d", "-H", "h1", "--name", "other", busybox, "echo", "no")
    shown = pair.shoal("logs", "-f", "-t", "--all", "-l", "app=shop").stdout.splitlines()
    assert {line.partition("|")[0].strip() for line in shown} == {"h1/a", "h1/b", "h2/a", "h2/b"}
    assert len(shown) == 12
    ended = pair.shoal("logs", "-t", "--all", "a", "b").stdout.splitlines()
    assert sorted(ended) == sorted(shown)
    times = [line.partition("| ")[2].split()[0] for line in ended]
    assert times == sorted(times)
    # A host that is down does not spoil it.
    pair.add_host("down", f"127.0.0.1:{free_port()}")
    try:
        partly = pair.shoal("logs", "-H", "h1,down,h2", "-l", "app=shop", code=None)
        assert partly.returncode not in (0, 1)
        assert len(partly.stdout.splitlines()) == 12
        assert "down" in partly.stderr
    finally:
        pair.remove_host("down")
    assert "no container" in pair.shoal("logs", "--all", "-l", "app=none", code=None).stderr


def test_grep_streams_and_details(pair: Fleet, busybox: str) -> None:
    script = "echo one; echo Two >&2; printf 'three'; sleep 0.1; echo ' more'"
    options = ("--log-opt", "labels=team", "--log-opt", "env=STAGE", "-l", "team=x", "-e", "STAGE=prod")
    pair.shoal("run", "-d", "-H", "h1", "--name", "g", *options, busybox, "sh", "-c", script)
    pair.shoal("wait", "-H", "h1", "g")

    def logs(*arguments: str) -> tuple[str, str]:
        done = pair.shoal("logs", "-H", "h1", *arguments, "g")
        return done.stdout, done.stderr

    assert logs("--grep", "more") == ("three more\n", "")
    assert logs("--grep", "t", "-i") == ("three more\n", "Two\n")
    assert logs("--grep", "^(o|T)", "-E") == ("one\n", "Two\n")
    assert logs("--grep", "o", "-v") == ("", "")
    assert logs("--stderr") == ("", "Two\n")
    assert logs("--stdout")[1] == ""
    assert logs("--details")[0].splitlines()[0] == "STAGE=prod,team=x one"
    bad = pair.shoal("logs", "-H", "h1", "--grep", "(?=x)", "-E", "g", code=None)
    assert bad.returncode != 0
    assert "regular expression" in bad.stderr


def test_driver_none_keeps_nothing_but_shows_it_in_the_foreground(pair: Fleet, busybox: str) -> None:
    lines = 150_000  # several megabytes: more than is kept for those who are attached
    run = ("run", "-H", "h1", "--name", "quiet", "--log-driver", "none", busybox, "sh", "-c")
    gapless(pair.shoal(*run, COUNT.format(lines=lines)).stdout, lines)
    refused = pair.shoal("logs", "-H", "h1", "quiet", code=None)
    assert refused.returncode != 0
    assert "log driver is none" in refused.stderr
    assert sum(file.stat().st_size for file in log_files(pair, "quiet")) < 8 << 20


def test_bad_options_make_nothing(pair: Fleet, busybox: str) -> None:
    for flags in (
        ("--log-driver", "syslog"),
        ("--log-opt", "max-size"),
        ("--log-opt", "max-size=1x"),
        ("--log-opt", "max-file=0"),
        ("--log-opt", "colour=red"),
        ("--log-driver", "none", "--log-opt", "max-size=1m"),
    ):
        refused = pair.shoal("run", "-d", "-H", "h1", "--name", "bad", *flags, busybox, "true", code=None)
        assert refused.returncode == 125 or refused.returncode == 2, flags
    assert "bad" not in pair.shoal("ps", "-a", "-H", "h1").stdout


def test_journald_is_refused_where_there_is_no_journal(pair: Fleet, busybox: str) -> None:
    if Path("/run/systemd/journal/socket").exists():
        pytest.skip("systemd-journald runs here")
    refused = pair.shoal("run", "-d", "-H", "h1", "--name", "j", "--log-driver", "journald", busybox, "true", code=None)
    assert "systemd-journald does not run" in refused.stderr
    assert "j" not in pair.shoal("ps", "-aq", "-H", "h1").stdout


def test_a_stalled_reader_costs_no_memory(pair: Fleet, busybox: str) -> None:
    size = 200 << 20
    script = f"sleep 1; yes $(printf %099d 0) | head -c {size}"

    def rss() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pair.first.pid}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    pair.shoal("run", "-d", "-H", "h1", "--name", "flood", busybox, "sh", "-c", script)
    with following(pair, "logs", "-f", "-H", "h1", "flood") as (process, _):
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        before = rss()
        pair.shoal("wait", "-H", "h1", "flood")
        assert rss() - before < 40 << 20
        process.send_signal(signal.SIGCONT)


def test_several_attached_clients_see_the_same(pair: Fleet, busybox: str) -> None:
    pair.shoal("run", "-d", "-i", "-H", "h1", "--name", "cat", busybox, "cat")
    with following(pair, "attach", "-H", "h1", "--no-stdin", "cat") as (first, out):
        with following(pair, "attach", "-H", "h1", "--no-stdin", "--no-sig-proxy", "cat") as (second, other):
            time.sleep(1.0)
            typed = pair.shoal("attach", "-H", "h1", "cat", stdin="hello\n")
            assert first.wait(30) == second.wait(30) == 0
            assert typed.stdout == out.read_text() == other.read_text() == "hello\n"
    late = pair.shoal("attach", "-H", "h1", "cat", code=None)
    assert late.returncode != 0
    assert "not running" in late.stderr
