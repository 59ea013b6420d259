"""Bytes that are no text, in arguments and in the environment: told before any host is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoalctl.commands import volume_archive
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("config")
BAD = "\udcff"


@pytest.mark.parametrize("arguments", [["run", "-e", f"X={BAD}", "alpine"], ["exec", "web", f"X={BAD}"]])
def test_arguments(arguments: list[str], shoal: Shoal, h1: FakeDaemon) -> None:
    assert shoal(*arguments) == (2, "", "shoal: the argument 'X=\\udcff' is not UTF-8\n")
    assert h1.asked == []


@pytest.mark.parametrize("arguments", [["run", "-e", "X", "alpine"], ["exec", "-e", "X", "web", "true"]])
def test_values_of_the_environment(
    arguments: list[str], shoal: Shoal, h1: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X", BAD)
    assert shoal(*arguments) == (2, "", "shoal: the value of the environment variable X is not UTF-8\n")
    assert h1.asked == []


def test_a_password(shoal: Shoal, h1: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_REGISTRY_PASSWORD", BAD)
    assert shoal("pull", "--creds", "me", "busybox")[0] == 2
    assert h1.asked == []


def test_text_of_any_language_is_fine(shoal: Shoal, h1: FakeDaemon) -> None:
    assert shoal("run", "-d", "-e", "X=Grüße 🐟", "alpine")[0] == 0
    assert list(h1.requests("Run")[0].spec.env) == ["X=Grüße 🐟"]


def test_an_archive_that_can_not_be_read(
    shoal: Shoal, h1: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.tar"
    file.touch()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(volume_archive, "open", refused, raising=False)  # root reads everything
    assert shoal("volume", "import", "v", str(file)) == (2, "", f"shoal: can't read {file}: Permission denied\n")
    assert h1.asked == []
