"""Files, configs and secrets of the client in containers: sent, immutable, in step, and no secret anywhere."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet, until


@pytest.fixture
def laptop(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that only the client has; relative paths of a command are relative to its parent."""
    directory = fleet.directory / f"laptop-{secrets.token_hex(3)}"
    (directory / "conf" / "sub").mkdir(parents=True)
    (directory / "conf" / "app.ini").write_text("one\n")
    (directory / "conf" / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (directory / "conf" / "sub" / "run.sh").chmod(0o755)
    (directory / "conf" / "link").symlink_to("/etc/hostname")
    yield directory
    fleet.remove_containers()


def test_a_directory_of_the_laptop_on_two_hosts(fleet: Fleet, busybox: str, laptop: Path) -> None:
    script = "cat /c/app.ini; /c/sub/run.sh; readlink /c/link; stat -c '%a %u:%g' /c/sub/run.sh; touch /c/x || echo ro"
    done = fleet.shoal("run", "--rm", "--all", "-v", f"./{laptop.name}/conf:/c", busybox, "sh", "-c", script)
    for host in ("h1", "h2"):
        lines = [line.split("| ", 1)[1] for line in done.stdout.splitlines() if line.startswith(host)]
        assert lines == ["one", "ran", "/etc/hostname", "755 0:0", "ro"], done.stdout + done.stderr


def test_only_what_is_missing_is_sent(fleet: Fleet, busybox: str, laptop: Path) -> None:
    blobs = fleet.first.root / "files" / "blobs"
    (laptop / "conf" / "big").write_bytes(os.urandom(3_000_000))
    mount = ("-v", f"local:{laptop}/conf:/c")
    fleet.shoal("run", "--rm", "-H", "h1", *mount, busybox, "true")
    before = {entry.name: entry.stat().st_mtime_ns for entry in blobs.iterdir()}
    (laptop / "conf" / "app.ini").write_text(secrets.token_hex(8))
    out = fleet.shoal("run", "--rm", "-H", "h1", *mount, busybox, "cat", "/c/app.ini").stdout
    assert out == (laptop / "conf" / "app.ini").read_text()
    after = {entry.name: entry.stat().st_mtime_ns for entry in blobs.iterdir()}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("./nowhere:/c", "does not exist on this machine"),
        ("~/nowhere:/c", "does not exist on this machine"),
        ("local:/nowhere:/c", "does not exist on this machine"),
        ("/nowhere-on-host:/c", "does not exist on the host"),
        ("host:/nowhere-on-host:/c", "does not exist on the host"),
        ("./:/c:rw", "read-only"),
    ],
)
def test_a_path_that_is_not_there_is_an_error(fleet: Fleet, busybox: str, mount: str, message: str) -> None:
    failed = fleet.shoal("run", "--rm", "-H", "h1", "-v", mount, busybox, "true", code=None)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert not Path("/nowhere-on-host").exists()
    assert not fleet.json("ps", "-a", "-H", "h1")


def test_one_file_and_a_config_with_a_mode(fleet: Fleet, busybox: str, laptop: Path) -> None:
    config = f"app={laptop}/conf/app.ini,target=/etc/app.conf,mode=0440"
    script = "cat /etc/app.conf /one; stat -c '%a' /etc/app.conf"
    flags = ("--config", config, "-v", f"./{laptop.name}/conf/app.ini:/one")
    out = fleet.shoal("run", "--rm", "-H", "h1", *flags, busybox, "sh", "-c", script).stdout
    assert out == "one\none\n440\n"


def test_follow_keeps_a_running_container_in_step(fleet: Fleet, busybox: str, laptop: Path) -> None:
    flags = ("-H", "h1", "--follow", "--name", "following", "-v", f"./{laptop.name}/conf:/c")
    script = "exec 3</c/app.ini; while sleep 0.1; do cat /c/app.ini /c/new 2>/dev/null; done"
    running = subprocess.Popen(
        fleet.command("run", *flags, busybox, "sh", "-c", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=fleet.environment(),
        cwd=fleet.directory,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "one\n"
        (laptop / "conf" / "app.ini").write_text("two\n")
        (laptop / "conf" / "new").write_text("fresh\n")
        seen: list[str] = []
        deadline = time.monotonic() + 60
        while seen[-2:] != ["two\n", "fresh\n"]:
            assert time.monotonic() < deadline, seen[-10:]
            seen.append(running.stdout.readline())
        # Atomic: never the new file of one state with the other of another.
        assert "two\n" not in seen[: seen.index("fresh\n") - 1]
    finally:
        fleet.shoal("rm", "-f", "-H", "h1", "following", code=None)
        running.communicate(timeout=30)
    # Later runs begin with the last state; a mount is switched, not laid on top of another.
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if laptop.name in line]


def _value_in(path: Path, value: bytes) -> list[str]:
    found = []
    for directory, _, names in os.walk(path):
        for name in names:
            file = Path(directory, name)
            if file.is_symlink() or not file.is_file():
                continue
            try:
                if value in file.read_bytes():
                    found.append(str(file))
            except OSError:
                continue
    return found


def test_a_secret_is_in_its_file_and_nowhere_else(fleet: Fleet, busybox: str, laptop: Path) -> None:
    value = f"s3cret-{secrets.token_hex(16)}"
    file = laptop / "pw"
    file.write_text(value)
    flags = ("-d", "-H", "h1", "--name", "vault", "-u", "1000:1000", "--secret", f"id=db,src={file}")
    script = "wc -c < /run/secrets/db; stat -c '%a %u' /run/secrets/db; grep -c run/secrets/db /proc/mounts; sleep 600"
    fleet.shoal("run", *flags, busybox, "sh", "-c", script)
    until(lambda: fleet.shoal("logs", "-H", "h1", "vault").stdout == f"{len(value)}\n400 1000\n1\n", what="output")
    inside = fleet.shoal("exec", "-H", "h1", "vault", "cat", "/run/secrets/db", code=None)
    assert inside.stdout == value or "not a shoal command" in inside.stderr

    file.unlink()
    daemon = fleet.first
    assert not _value_in(daemon.root, value.encode())
    assert value not in daemon.log()
    where = _value_in(daemon.run_dir, value.encode())
    assert where, "the secret is kept for restarts"
    assert all(f"{daemon.run_dir}/secrets/" in path or "/mounts/" in path or "/rootfs/" in path for path in where)
    assert _file_system(daemon.run_dir / "secrets") == "tmpfs"
    for text in (
        fleet.shoal("inspect", "-H", "h1", "vault").stdout,
        fleet.shoal("events", "-H", "h1", "--since", "1h", "--until", "0s", code=None).stdout,
        fleet.shoal("ps", "-H", "h1", "--format", "json").stdout,
    ):
        assert value not in text
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert value.encode() not in environ.read_bytes(), environ
            assert value.encode() not in environ.with_name("cmdline").read_bytes(), environ
        except OSError:
            continue

    daemon.kill()
    daemon.start()
    fleet.shoal("stop", "-t", "0", "-H", "h1", "vault")
    fleet.shoal("start", "-H", "h1", "vault")
    until(lambda: fleet.shoal("logs", "-H", "h1", "vault").stdout.count("400 1000") == 2, what="a second run")
    fleet.shoal("rm", "-f", "-H", "h1", "vault")
    assert not _value_in(daemon.run_dir, value.encode())


def test_a_lost_secret_is_told_and_can_be_given_again(fleet: Fleet, busybox: str, laptop: Path) -> None:
    environment = {"DB_PASSWORD": "abc"}
    os.environ.update(environment)
    try:
        file = laptop / "pw"
        file.write_text("abc")
        flags = ("-d", "-H", "h1", "--name", "amnesia", "--secret", f"id=db,src={file}")
        fleet.shoal("run", *flags, busybox, "cat", "/run/secrets/db")
        until(lambda: fleet.json("ps", "-a", "-H", "h1")[0]["State"] == "exited", what="exit")
        [directory] = (fleet.first.run_dir / "secrets").iterdir()
        for each in directory.iterdir():  # as after a reboot
            each.unlink()
        failed = fleet.shoal("start", "-H", "h1", "amnesia", code=None)
        assert failed.returncode != 0
        assert "reboot" in failed.stderr
        assert "--secret" in failed.stderr
        fleet.shoal("start", "-H", "h1", "--secret", f"id=db,src={file}", "amnesia")
        until(lambda: fleet.shoal("logs", "-H", "h1", "amnesia").stdout == "abcabc", what="the second run")
    finally:
        del os.environ["DB_PASSWORD"]


def _file_system(path: Path) -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(path):
            return fields[fields.index("-") + 1]
    return ""


class _Following:
    """A `shoal run --follow` in the foreground, whose lines can be waited for."""

    def __init__(self, fleet: Fleet, *arguments: str) -> None:
        self.process = subprocess.Popen(
            fleet.command("run", "--follow", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=fleet.environment(),
            cwd=fleet.directory,
            text=True,
        )
        self.seen: list[str] = []

    def until(self, *wanted: str) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + 60
        while not all(any(part in line for line in self.seen) for part in wanted):
            assert time.monotonic() < deadline, self.seen[-20:]
            self.seen.append(self.process.stdout.readline())

    def end(self, fleet: Fleet, name: str) -> None:
        fleet.shoal("rm", "-f", "--all", name, code=None)
        self.process.communicate(timeout=60)


def test_follow_of_one_file_on_two_hosts_and_the_next_start(fleet: Fleet, busybox: str, laptop: Path) -> None:
    file = laptop / "conf" / "app.ini"
    running = _Following(
        fleet, "--all", "--name", "both", "-v", f"./{laptop.name}/conf/app.ini:/one", busybox, "sh", "-c",
        "while sleep 0.1; do cat /one; done",
    )  # fmt: skip
    try:
        running.until("h1 | one", "h2 | one")
        # As editors save: a new file in the place of the old one.
        (laptop / "conf" / "app.new").write_text("saved\n")
        (laptop / "conf" / "app.new").rename(file)
        running.until("h1 | saved", "h2 | saved")
        fleet.shoal("stop", "-t", "0", "--all", "both")
        running.process.communicate(timeout=60)
        fleet.shoal("start", "-H", "h2", "both")
        until(lambda: fleet.shoal("logs", "-n", "1", "-H", "h2", "both").stdout == "saved\n", what="the last state")
        mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/files/trees/" in line]
        assert len(mounted) <= 1, "only that of the container that runs"
    finally:
        running.end(fleet, "both")


def test_a_container_that_moves_its_mount_away_gets_nothing_mounted_elsewhere(
    fleet: Fleet, busybox: str, laptop: Path
) -> None:
    script = (
        "mv /deep /moved && ln -s /proc /deep && mkdir -p /moved/x && echo ready;"
        "while sleep 0.2; do cat /moved/sys/app.ini; cat /proc/sys/kernel/ostype; done"
    )
    running = _Following(
        fleet, "-H", "h1", "--name", "mover", "-v", f"./{laptop.name}/conf:/deep/sys", busybox, "sh", "-c", script
    )
    try:
        running.until("ready", "one", "Linux")
        (laptop / "conf" / "app.ini").write_text("two\n")
        running.until("something else is at /deep/sys")
        count = len(running.seen)
        while len(running.seen) < count + 6:
            running.seen.append(running.process.stdout.readline())  # type: ignore[union-attr]
        assert "two\n" not in running.seen
        assert running.seen[-1] in ("one\n", "Linux\n")
        assert {"one\n", "Linux\n"} <= set(running.seen[count:]), "its own mounts are as they were"
    finally:
        running.end(fleet, "mover")


def test_a_tree_is_collected_only_when_no_container_names_it(fleet: Fleet, busybox: str, laptop: Path) -> None:
    fleet.shoal("run", "-d", "-H", "h1", "--name", "keeper", "-v", f"./{laptop.name}/conf:/c", busybox, "sleep", "600")
    trees = fleet.first.root / "files" / "trees"
    before = set(os.listdir(trees))
    fleet.first.kill()
    (trees / ".tmp-half").mkdir()
    fleet.first.start()
    assert set(os.listdir(trees)) == before
    assert fleet.shoal("exec", "-H", "h1", "keeper", "cat", "/c/app.ini").stdout == "one\n"
    fleet.shoal("restart", "-t", "0", "-H", "h1", "keeper", code=None)


def test_many_files(fleet: Fleet, busybox: str, laptop: Path) -> None:
    many = laptop / "many"
    for number in range(40):
        (many / f"d{number}").mkdir(parents=True)
        for file in range(50):
            (many / f"d{number}" / f"f{file}").write_text(f"{number} {file}")
    out = fleet.shoal(
        "run", "--rm", "-H", "h1", "-v", f"./{laptop.name}/many:/m:ro", busybox, "sh", "-c", "find /m -type f | wc -l"
    ).stdout
    assert out.strip() == "2000"
    for number in range(10_000):
        (many / f"more{number}").touch()
    failed = fleet.shoal("run", "-H", "h1", "-v", f"./{laptop.name}/many:/m", busybox, "true", code=None)
    assert "10000 files" in failed.stderr
    assert failed.returncode == 125
