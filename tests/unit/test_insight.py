"""Processes of ps, changed files, checks of health, configurations of commits: the pure parts."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import InvalidArgument
from shoald.containers.health import after_probe, pause_s
from shoald.engine.changes import without_stubs
from shoald.engine.commit import changed, config_of, tag_of
from shoald.engine.stats import network_bytes
from shoald.engine.top import table_of
from shoald.host import layerdiff
from shoald.model.container import Health, HealthCheck, HealthProbe, HealthStatus, Mount, MountKind
from shoald.model.insight import Change, ChangeKind
from tests.support.fake_engine import CONTAINER, IMAGE, NOW

STARTING, HEALTHY, UNHEALTHY = HealthStatus.STARTING, HealthStatus.HEALTHY, HealthStatus.UNHEALTHY


# --- top --------------------------------------------------------------------------------------------------------------


def test_rows_of_ps() -> None:
    text = "UID   PID CMD\nroot  1   init\nroot 42   sh -c  a  b\nroot 43\n"
    table = table_of(text, {42, 43})
    assert table.titles == ("UID", "PID", "CMD")
    assert table.rows == (("root", "42", "sh -c  a  b"), ("root", "43"))
    for bad in ("", "CMD\nx\n"):
        with pytest.raises(InvalidArgument):
            table_of(bad, {1})


def test_network_of_nobody() -> None:
    assert network_bytes(0) == network_bytes(2**22 + 1) == (0, 0)
    assert len(network_bytes(os.getpid())) == 2


# --- changes ----------------------------------------------------------------------------------------------------------


def test_what_is_there_only_for_mounts_is_left_out() -> None:
    container = replace(
        CONTAINER, spec=replace(CONTAINER.spec, mounts=(Mount(MountKind.VOLUME, "/srv/data", source="d"),))
    )
    kinds = {"A": ChangeKind.ADDED, "C": ChangeKind.MODIFIED, "D": ChangeKind.DELETED}

    def kept(*lines: str) -> list[str]:
        found = (Change(kinds[line[0]], line[2:]) for line in lines)
        letters = {kind: letter for letter, kind in kinds.items()}
        return [f"{letters[change.kind]} {change.path}" for change in without_stubs(found, container)]

    assert kept("C /dev", "A /dev/x", "C /etc", "A /etc/hosts", "A /srv", "A /srv/data") == []
    assert kept("C /etc", "A /etc/hosts", "C /etc/passwd", "A /srv", "A /srv/data", "A /srv/x") == [
        "C /etc", "C /etc/passwd", "A /srv", "A /srv/x",
    ]  # fmt: skip
    assert kept("D /etc", "D /srv") == ["D /etc", "D /srv"]


def test_files_of_a_layer(tmp_path: Path) -> None:
    upper, below = tmp_path / "upper", tmp_path / "below"
    for path in (below / "a/b", below / "gone", upper / "a/new"):
        path.mkdir(parents=True)
    (below / "a/b/file").write_text("x")
    (upper / "a/link").symlink_to("/etc")
    (below / "a/link").mkdir()
    (below / "a/link/passwd").write_text("not looked at")
    (upper / "z").write_text("z")
    assert list(layerdiff.changes(upper, below)) == [
        ("modified", "/a"), ("modified", "/a/link"), ("added", "/a/new"), ("added", "/z"),
    ]  # fmt: skip


def test_deeply_nested_directories_cost_no_descriptors(tmp_path: Path) -> None:
    upper, below = tmp_path / "upper", tmp_path / "below"
    upper.mkdir()
    below.mkdir()
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    highest = max(
        len(os.listdir("/proc/self/fd")) for at, _ in enumerate(layerdiff.changes(upper, below)) if at % 100 == 0
    )
    assert highest <= before + 2
    assert len(list(layerdiff.changes(upper, below))) == 1500
    _remove_deep(upper)


def _remove_deep(top: Path) -> None:
    import subprocess

    subprocess.run(["rm", "-rf", str(top)], check=True)


# --- health -----------------------------------------------------------------------------------------------------------

CHECK = HealthCheck(("CMD", "x"), 30.0, 30.0, 10.0, 1.0, 3)
STARTED = replace(CONTAINER, started_at=NOW)


def probe(code: int, after_s: float) -> HealthProbe:
    at = NOW + timedelta(seconds=after_s)
    return HealthProbe(at, at, code, "")


@pytest.mark.parametrize(
    ("status", "streak", "code", "after_s", "expected"),
    [
        (STARTING, 0, 0, 1, (HEALTHY, 0)),
        (STARTING, 0, 1, 9, (STARTING, 0)),
        (STARTING, 0, 1, 10, (STARTING, 1)),
        (STARTING, 2, 1, 60, (UNHEALTHY, 3)),
        (HEALTHY, 0, 1, 5, (HEALTHY, 1)),
        (HEALTHY, 2, -1, 60, (UNHEALTHY, 3)),
        (UNHEALTHY, 7, 1, 60, (UNHEALTHY, 8)),
        (UNHEALTHY, 7, 0, 60, (HEALTHY, 0)),
    ],
)
def test_what_a_check_makes_of_the_health(
    status: HealthStatus, streak: int, code: int, after_s: float, expected: tuple[HealthStatus, int]
) -> None:
    found = after_probe(STARTED, CHECK, Health(status, streak), probe(code, after_s))
    assert (found.status, found.failing_streak) == expected


def test_five_checks_are_kept() -> None:
    health = Health(HEALTHY)
    for number in range(8):
        health = after_probe(STARTED, CHECK, health, probe(0, number))
    assert [each.start for each in health.log] == [NOW + timedelta(seconds=each) for each in range(3, 8)]


def test_how_long_until_the_next_check() -> None:
    early, late = NOW + timedelta(seconds=5), NOW + timedelta(seconds=15)
    assert pause_s(STARTED, CHECK, Health(STARTING), early) == 1.0
    assert pause_s(STARTED, CHECK, Health(STARTING), late) == 30.0
    assert pause_s(STARTED, CHECK, Health(HEALTHY), early) == 30.0
    assert pause_s(STARTED, replace(CHECK, start_period_s=0.0), Health(STARTING), datetime.now(UTC)) == 30.0


# --- commit -----------------------------------------------------------------------------------------------------------


def test_the_configuration_of_a_commit() -> None:
    spec = replace(
        CONTAINER.spec,
        command=("sleep", "9"),
        labels={"mine": "1"},
        health_check=HealthCheck(("CMD", "look"), interval_s=2.0),
        mounts=(Mount(MountKind.VOLUME, "/v", source="v"), Mount(MountKind.SECRET, "/run/secrets/s")),
    )
    config = config_of(replace(CONTAINER, spec=spec), IMAGE)
    assert config["Cmd"] == ["sleep", "9"]
    assert config["Env"] == ["A=b"]
    assert config["Labels"] == {"k": "v", "mine": "1"}
    assert config["Volumes"] == {"/v": {}}
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert config["Healthcheck"] == {"Test": ["CMD", "look"], "Interval": 2_000_000_000}
    state = changed(config, "me", ["USER 7", "EXPOSE 81", 'ENTRYPOINT ["/x"]', "HEALTHCHECK NONE", "WORKDIR /w"])
    after = state.image_config().to_oci()
    assert (after["User"], after["WorkingDir"], after["Entrypoint"]) == ("7", "/w", ["/x"])
    assert after["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}}
    assert after["Healthcheck"]["Test"] == ["NONE"]


@pytest.mark.parametrize("change", ["RUN x", "COPY a b", "ADD a b", "FROM x", "FROM x\nRUN y", "WHAT"])
def test_changes_that_a_commit_refuses(change: str) -> None:
    with pytest.raises(InvalidArgument):
        changed(config_of(CONTAINER, IMAGE), "", [change])


def test_the_name_of_a_commit() -> None:
    assert str(tag_of("me/app")) == "docker.io/me/app:latest"
    for bad in ("me/app@sha256:" + "a" * 64, "UPPER", ""):
        with pytest.raises(InvalidArgument):
            tag_of(bad)
