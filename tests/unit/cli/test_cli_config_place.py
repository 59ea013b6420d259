"""Which configuration a command reads, and what it says when that one is not there."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition
from shoalctl.config_file import config_path
from shoalctl.fleet.localtree import HashCache, cache_directory
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SHOAL_CONFIG", raising=False)
    monkeypatch.delenv("SHOAL_HOSTS", raising=False)
    return tmp_path / "none.toml"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SHOAL_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize(
    "arguments", [["ps"], ["-H", "a", "ps"], ["host", "list"], ["host", "group"], ["host", "test"], ["version"]]
)
def test_one_that_is_named_must_be_there(
    arguments: list[str], by_flag: bool, missing: Path, shoal: Shoal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_flag:
        monkeypatch.setenv("SHOAL_CONFIG", str(missing))
    code, _, err = shoal(*(["--config", str(missing)] if by_flag else []), *arguments)
    assert code == 1
    assert f"shoal: the configuration {missing} does not exist\n  hint: correct --config or SHOAL_CONFIG" in err


@pytest.mark.parametrize("arguments", [["version", "--client"], ["completion", "bash"], ["ps", "--help"]])
def test_commands_that_ask_no_host_need_none(arguments: list[str], missing: Path, shoal: Shoal) -> None:
    assert shoal("--config", str(missing), *arguments)[0] == 0


def test_the_first_host_makes_it(missing: Path, shoal: Shoal) -> None:
    assert shoal("--config", str(missing), "host", "add", "a", "unix:///x.sock")[0] == 0
    assert shoal("--config", str(missing), "host", "list", "-q")[:2] == (0, "a\n")


def test_a_tilde_is_the_home_directory(
    config: Path, h1: FakeDaemon, shoal: Shoal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.delenv("SHOAL_CONFIG")
    assert shoal("--config=~/config.toml", "host", "list")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert shoal("pki", "init", "--dir", "~/pki")[0] == 0
    assert shoal("pki", "issue", "host", "a", "--dir", "~/pki", "--out", "~/out")[0] == 0
    assert (tmp_path / "out" / "a.pem").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory(shoal: Shoal) -> None:
    code, _, err = shoal("ps")
    assert code == 1
    assert err == "shoal: there is no home directory for ~/.config\n  hint: set HOME or SHOAL_CONFIG\n"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    os.utime(file, (1, 1))
    cache = HashCache()
    cache._used["key"] = cache.digest(file, file.stat())
    cache.save()
    assert os.path.isabs(cache_directory())
    assert os.listdir(tmp_path) == ["file"]


def test_a_user_who_is_not_there() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        config_path({"SHOAL_CONFIG": "~nouser/x"})
    assert (caught.value.reason, caught.value.hint) == ("NO_HOME", "set HOME or SHOAL_CONFIG")
