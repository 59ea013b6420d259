"""Builds of several hosts: everywhere, on the host that has most of it, and brought to the others."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.daemon import Fleet

UNIQUE = "cat /proc/sys/kernel/random/uuid"


@pytest.fixture
def context(fleet: Fleet, busybox: str, tmp_path: Path) -> Path:
    fleet.shoal("builder", "prune", "-af", "--all")
    fleet.shoal("pull", "-q", busybox)
    (tmp_path / "data").write_text("data\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {busybox}\nCOPY data /data\nRUN {UNIQUE} > /made\nRUN {UNIQUE} > /more\n"
    )
    return tmp_path


def made(fleet: Fleet, name: str, image: str = "it") -> str:
    return fleet.shoal("run", "-H", name, "--rm", image, "cat", "/made", "/more", "/data").stdout


def test_everywhere_unless_asked_otherwise(fleet: Fleet, context: Path) -> None:
    out = fleet.shoal("build", "-q", "-t", "it", context).stdout
    assert out.count("sha256:") == 2
    assert made(fleet, "h1") != made(fleet, "h2")


@pytest.mark.parametrize("warm", ["h1", "h2"])
def test_the_host_that_has_most_of_it_builds(fleet: Fleet, context: Path, warm: str) -> None:
    text = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(text.replace(f"RUN {UNIQUE} > /more\n", ""))
    fleet.shoal("build", "-q", "-H", warm, "-t", "part", context)
    (context / "Dockerfile").write_text(text)
    other = "h1" if warm == "h2" else "h2"
    fleet.shoal("rmi", "-H", other, "-f", "it", code=None)
    done = fleet.shoal("build", "--once", "-t", "it", context)
    assert [line.split(" | ")[0].strip() for line in done.stdout.splitlines()] == [warm]
    assert done.stderr.count("CACHED") == 3
    assert "it " not in fleet.shoal("images", "-H", other).stdout


def test_a_context_that_is_there_decides(fleet: Fleet, context: Path) -> None:
    """Of hosts with the same steps."""
    fleet.shoal("build", "-q", "-H", "h2", "-t", "it", context)
    fleet.shoal("build", "-q", "-H", "h1", "-t", "it", context)
    (context / "new").write_text("new\n")
    fleet.shoal("build", "-q", "-H", "h2", "-t", "it", context)
    assert fleet.shoal("build", "--once", "-q", "-t", "it", context).stdout.startswith("h2")


def test_the_result_is_brought_to_the_others(fleet: Fleet, context: Path) -> None:
    done = fleet.shoal("build", "--distribute", "-t", "it", "-t", "example.com/it:2", context)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.count("RUN ") == 2, "one host builds"
    assert made(fleet, "h1") == made(fleet, "h2") == made(fleet, "h2", "example.com/it:2")
    ids = {line.split()[-1] for line in done.stdout.splitlines()}
    assert len(ids) == 1


def test_a_dead_host_spoils_nothing(fleet: Fleet, context: Path) -> None:
    [dead] = [each for each in fleet.daemons if each.name == "h2"]
    dead.stop()
    try:
        done = fleet.shoal("build", "--distribute", "-t", "it", context, code=None)
        assert done.returncode == 3, done.stderr
        assert "shoal: h2: " in done.stderr
        assert done.stdout.startswith("h1")
    finally:
        dead.start()


def test_a_build_that_fails_is_brought_nowhere(fleet: Fleet, context: Path) -> None:
    (context / "Dockerfile").write_text((context / "Dockerfile").read_text() + "RUN false\n")
    done = fleet.shoal("build", "--distribute", "-t", "never", context, code=1)
    assert "bringing" not in done.stderr
    assert "never" not in fleet.shoal("images").stdout
    assert "--detach" in fleet.shoal("build", "--distribute", "--detach", context, code=2).stderr


def test_a_host_without_the_base_image_counts(fleet: Fleet, context: Path, busybox: str) -> None:
    """It has nothing yet; that is no failure."""
    fleet.shoal("rmi", "-f", busybox, "it", "part", "example.com/it:2", code=None)
    done = fleet.shoal("build", "--distribute", "-q", "-t", "it", context)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


def test_a_group_of_builders_builds_once(fleet: Fleet, context: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('builders = ["fleet"]\n' + fleet.config_file.read_text())
    one = fleet.shoal("--config", config, "build", "-q", "-g", "fleet", "-t", "it", context).stdout
    both = fleet.shoal("--config", config, "build", "-q", "-g", "fleet", "--each", "-t", "it", context).stdout
    named = fleet.shoal("--config", config, "build", "-q", "-H", "h1,h2", "-t", "it", context).stdout
    assert [len(out.splitlines()) for out in (one, both, named)] == [1, 2, 2]
    assert "--each" in fleet.shoal("build", "--distribute", "--each", context, code=2).stderr


def test_a_question_about_a_build_fetches_nothing(fleet: Fleet, tmp_path: Path) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\nADD http://127.0.0.1:{server.server_port}/f /f\n")
        fleet.shoal("build", "--once", "-q", "--network", "host", "-t", "it", tmp_path)
        server.shutdown()
    assert asked == ["/f"]
