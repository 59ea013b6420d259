"""docs/getting-started.md, step by step: certificates by command, a host by command, the first container."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import BIN, Fleet, running_fleet


class Laptop:
    """A client that begins with nothing."""

    def __init__(self, home: Path, fleet: Fleet) -> None:
        self._environment = fleet.environment() | {"HOME": str(home), "SHOAL_CONFIG": ""}
        self.pki = home / ".config/shoal/pki"

    def shoal(self, *arguments: str, at: Path | None = None, code: int = 0) -> str:
        done = subprocess.run(
            [BIN / "shoal", *arguments], capture_output=True, text=True, timeout=60, env=self._environment, cwd=at
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with running_fleet(1) as running:
        yield running


def test_from_nothing_to_a_container(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, fleet)
    laptop.shoal("pki", "init")
    laptop.shoal("pki", "issue", "user", "ann", "--role", "admin")
    laptop.shoal("pki", "issue", "host", "web1", "--san", "web1.example.com", "--san", "127.0.0.1")
    key_modes = [path.stat().st_mode & 0o777 for path in laptop.pki.glob("*-key.pem")]
    assert key_modes == [0o600] * 3
    pki = laptop.pki
    fleet.first.configure(tls={"cert": f"{pki}/web1.pem", "key": f"{pki}/web1-key.pem", "ca": f"{pki}/ca.pem"})
    fleet.first.restart()
    try:
        files = ["--ca", "ca.pem", "--cert", "ann.pem", "--key", "ann-key.pem"]
        laptop.shoal("host", "add", "web1", fleet.first.address, *files, "-g", "web", at=pki)
        row = laptop.shoal("host", "test", "web1").splitlines()[1]
        assert "admin" in row
        assert "days left" in row
        laptop.shoal("host", "use", "web1")
        assert laptop.shoal("run", "--rm", busybox, "echo", "hello") == "hello\n"
        laptop.shoal("-g", "web", "run", "-d", "--name", "shop", busybox, "sleep", "1000")
        assert "shop" in laptop.shoal("ps")
        laptop.shoal("stop", "-t", "0", "shop")
        laptop.shoal("rm", "shop")
        # The unix socket on the host needs no configuration at all.
        address = f"unix://{fleet.first.run_dir}/api/shoald.sock"
        laptop.shoal("host", "add", "here", address)
        assert "admin" in laptop.shoal("host", "test", "here")
    finally:
        old = fleet.directory / "pki"
        fleet.first.configure(tls={"cert": f"{old}/h1.pem", "key": f"{old}/h1-key.pem", "ca": f"{old}/ca.pem"})
        fleet.first.restart()
