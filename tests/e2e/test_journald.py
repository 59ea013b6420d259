"""`--log-driver journald` with a real systemd-journald: fields, tags, and what `shoal logs` reads back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.daemon import Fleet, running_fleet, until
from tests.support.journald import PROGRAM, Journald, running_journald

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="needs systemd-journald")


@pytest.fixture(scope="module")
def journal() -> Iterator[Journald]:
    with running_journald() as running:
        yield running


@pytest.fixture(scope="module")
def logger(journal: Journald, busybox: str) -> Iterator[Fleet]:
    """One host that has this journal."""
    with running_fleet(1, within=journal.within) as fleet:
        fleet.shoal("pull", "-q", busybox)
        yield fleet


def run(fleet: Fleet, name: str, image: str, script: str, *flags: str) -> str:
    flags = ("--name", name, "--log-driver", "journald", *flags)
    return fleet.shoal("run", "-d", *flags, image, "sh", "-c", script).stdout.strip()


def test_lines_are_read_back_as_they_were_written(logger: Fleet, busybox: str) -> None:
    script = "echo one; echo two >&2; printf three; sleep 1; echo four; printf '\\303\\244 \\377\\n'"
    run(logger, "all", busybox, script)
    command = logger.command("logs", "-f", "all")
    followed = subprocess.run(command, capture_output=True, check=True, env=logger.environment())
    assert (followed.stdout, followed.stderr) == (b"one\nthreefour\n\303\244 \377\n", b"two\n")
    assert logger.shoal("logs", "--stderr", "all").stderr == "two\n"
    assert logger.shoal("logs", "--grep", "three", "all").stdout == "threefour\n"


def test_a_follower_gets_lines_while_they_are_written(logger: Fleet, busybox: str) -> None:
    run(logger, "slow", busybox, "for i in $(seq 300); do echo $i; [ $((i % 50)) = 0 ] && sleep 0.1; done")
    assert logger.shoal("logs", "-f", "slow").stdout.split() == [str(i) for i in range(1, 301)]
    assert logger.shoal("logs", "slow").stdout.split() == [str(i) for i in range(1, 301)]


def test_since_and_until_cut(logger: Fleet, journal: Journald, busybox: str) -> None:
    run(logger, "cut", busybox, "echo early; sleep 2; echo late")
    logger.shoal("wait", "cut")
    until(lambda: len(journal.entries("CONTAINER_NAME=cut")) == 2, what="both entries")
    early, late = journal.entries("CONTAINER_NAME=cut")
    middle = (int(early["__REALTIME_TIMESTAMP"]) + int(late["__REALTIME_TIMESTAMP"])) / 2e6
    assert logger.shoal("logs", "--since", f"{middle:.6f}", "cut").stdout == "late\n"
    assert logger.shoal("logs", "--until", f"{middle:.6f}", "cut").stdout == "early\n"


def test_entries_have_the_fields_of_docker(logger: Fleet, journal: Journald, busybox: str) -> None:
    id_ = run(logger, "plain", busybox, "echo out; echo err >&2")
    tagged = run(logger, "tagged", busybox, "echo out", "--log-opt", "tag={{.Name}}/{{.ID}}/{{.ImageName}}")
    logger.shoal("wait", "plain", "tagged")
    until(lambda: len(journal.entries("CONTAINER_NAME=plain")) == 2, what="both entries")
    for entry in journal.entries("CONTAINER_NAME=plain"):
        names = ("CONTAINER_ID", "CONTAINER_ID_FULL", "CONTAINER_TAG", "SYSLOG_IDENTIFIER")
        assert [entry[name] for name in names] == [id_[:12], id_, id_[:12], id_[:12]]
    priorities = {entry["MESSAGE"].strip(): entry["PRIORITY"] for entry in journal.entries(f"CONTAINER_ID={id_[:12]}")}
    assert priorities == {"out": "6", "err": "3"}
    tag = f"tagged/{tagged[:12]}/{busybox}"
    until(lambda: journal.entries(f"CONTAINER_TAG={tag}"), what="the tagged entry")
    assert [entry["SYSLOG_IDENTIFIER"] for entry in journal.entries(f"CONTAINER_ID_FULL={tagged}")] == [tag]


def test_a_tag_that_can_not_be_read_makes_nothing(logger: Fleet, busybox: str) -> None:
    flags = ("--name", "bad", "--log-driver", "journald", "--log-opt", "tag={{.Nmae}}")
    refused = logger.shoal("run", "-d", *flags, busybox, "true", code=125)
    assert "{{.Nmae}}" in refused.stderr
    assert "{{.Name}}" in refused.stderr
    assert "bad" not in logger.shoal("ps", "-a").stdout
