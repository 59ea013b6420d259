"""Two hosts of the real API with nothing behind them, and a configuration that knows them and a dead one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoalctl.app import run
from tests.support.cli import Shoal, closed_port
from tests.support.fake_daemon import Certificates, FakeDaemon


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def h1(certificates: Certificates) -> Iterator[FakeDaemon]:
    with FakeDaemon(certificates) as daemon:
        yield daemon


@pytest.fixture
def h2(certificates: Certificates) -> Iterator[FakeDaemon]:
    with FakeDaemon(certificates) as daemon:
        yield daemon


@pytest.fixture
def config(
    h1: FakeDaemon, h2: FakeDaemon, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    path = tmp_path / "config.toml"
    dead = closed_port()
    path.write_text(
        'default = ["h1"]\n'
        + certificates.config("h1", h1.port)
        + certificates.config("h2", h2.port)
        + certificates.config("dead", dead)
        + '[groups]\nboth = ["h1", "h2"]\nhalf = ["h1", "dead"]\n'
    )
    monkeypatch.setenv("SHOAL_CONFIG", str(path))
    monkeypatch.delenv("SHOAL_HOSTS", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("COLUMNS", "120")
    return path


@pytest.fixture
def shoal(capfd: pytest.CaptureFixture[str]) -> Shoal:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return call
