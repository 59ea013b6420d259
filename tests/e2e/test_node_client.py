"""The JavaScript client of examples/: made from the protos alone, against a real daemon over mutual TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.pki import Role, create_ca, issue_user
from tests.support.daemon import Fleet

EXAMPLE = Path(__file__).parents[2] / "examples/clients/node"
PROTOS = Path(__file__).parents[2] / "proto"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


class NodeClient:
    """The example, installed in a directory of its own."""

    def __init__(self, directory: Path, fleet: Fleet) -> None:
        self._directory = directory
        self._fleet = fleet

    def run(self, *arguments: str, role: Role = Role.OPERATOR, **changes: str) -> subprocess.CompletedProcess[str]:
        certificate, key = self._fleet.user(f"node-{role}", role)
        environment = {
            **self._fleet.environment(),
            "SHOAL_PROTOS": str(PROTOS),
            "SHOAL_ADDRESS": self._fleet.first.address,
            "SHOAL_CA": str(self._fleet.directory / "pki" / "ca.pem"),
            "SHOAL_CERT": str(certificate),
            "SHOAL_KEY": str(key),
            "SHOAL_SERVER_NAME": "localhost",
            **changes,
        }
        return subprocess.run(
            ["node", "main.js", *arguments],
            cwd=self._directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with its dependencies from the lock file."""
    copy = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@pytest.fixture
def client(installed: Path, host: Fleet) -> Iterator[NodeClient]:
    yield NodeClient(installed, host)
    host.remove_containers()


def test_runs_follows_waits_and_removes(client: NodeClient, host: Fleet, busybox: str) -> None:
    done = client.run(
        "run", busybox, "sh", "-c", "for n in 1 2 3; do echo line $n; sleep 0.2; done; echo bad >&2; exit 5"
    )
    assert done.stdout == "line 1\nline 2\nline 3\n"
    assert done.stderr == "bad\n"
    assert done.returncode == 5
    assert not host.json("ps", "-a")


def test_lists_and_follows_what_others_started(client: NodeClient, host: Fleet, busybox: str) -> None:
    container = host.shoal("run", "-d", "--name", "other", busybox, "sh", "-c", "echo one; sleep 1; echo two").stdout
    listed = client.run("list", role=Role.READER)
    assert listed.stdout.split("\t")[:2] == [container[:12], "other"]
    assert client.run("logs", "other", role=Role.READER).stdout == "one\ntwo\n"
    assert "exited" in client.run("list").stdout
    assert client.run("version").stdout.startswith("shoald ")


def test_errors_carry_reason_and_hint(client: NodeClient, busybox: str) -> None:
    missing = client.run("logs", "nobody")
    assert missing.returncode == 125
    assert missing.stderr.startswith("NOT_FOUND (CONTAINER_NOT_FOUND): ")
    refused = client.run("run", busybox, "true", role=Role.READER)
    assert refused.stderr.startswith("PERMISSION_DENIED (ROLE_REQUIRED): ")


def test_without_a_certificate_of_the_fleet_there_is_no_call(client: NodeClient, tmp_path: Path) -> None:
    issue_user(create_ca("others"), "stranger", Role.ADMIN).save(tmp_path / "c.pem", tmp_path / "k.pem")
    done = client.run("list", SHOAL_CERT=str(tmp_path / "c.pem"), SHOAL_KEY=str(tmp_path / "k.pem"))
    assert done.returncode == 125
    assert done.stderr.startswith("UNAVAILABLE")
