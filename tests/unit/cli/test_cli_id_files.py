"""`--cidfile` and `--iidfile`: there before any host is asked, and gone where no id came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, FailedPrecondition
from shoalctl.commands.id_file import IdFile
from tests.support.cli import Shoal
from tests.support.fake_daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("config")

ID = "sha256:" + "1" * 64


@pytest.fixture
def context(tmp_path: Path) -> str:
    root = tmp_path / "context"
    root.mkdir()
    (root / "Dockerfile").write_text("FROM busybox\n")
    return str(root)


@pytest.mark.parametrize("verb", ["run", "create"])
def test_a_cidfile_that_can_not_be_made(verb: str, shoal: Shoal, h1: FakeDaemon, tmp_path: Path) -> None:
    code, _, err = shoal(verb, "--cidfile", str(tmp_path / "none" / "cid"), "busybox")
    assert code == 2
    assert "--cidfile: can't write" in err
    assert h1.asked == []


def test_a_cidfile_goes_where_nothing_was_made(shoal: Shoal, h1: FakeDaemon, tmp_path: Path) -> None:
    h1.trouble["Run"] = AlreadyExists("name in use", reason="NAME_IN_USE")
    assert shoal("run", "-d", "--cidfile", str(tmp_path / "cid"), "busybox")[0] == 125
    assert not (tmp_path / "cid").exists()


def test_an_iidfile_that_can_not_be_made(shoal: Shoal, h1: FakeDaemon, tmp_path: Path, context: str) -> None:
    code, _, err = shoal("build", "--iidfile", str(tmp_path / "none" / "iid"), context)
    assert code == 2
    assert "--iidfile: can't write" in err
    assert h1.asked == []


def test_a_stale_iidfile_goes(shoal: Shoal, h1: FakeDaemon, tmp_path: Path, context: str) -> None:
    path = tmp_path / "iid"
    path.write_text("stale and longer than what comes in its place" * 9)
    assert shoal("build", "--iidfile", str(path), context)[0] == 0
    assert path.read_text() == ID
    h1.trouble["BuildEnd"] = FailedPrecondition("RUN failed", reason="BUILD_STEP_FAILED")
    assert shoal("build", "--iidfile", str(path), context)[0] == 1
    assert not path.exists()


def test_a_full_disk_tells_the_id() -> None:
    with IdFile("--iidfile", "/dev/full", new=False) as file, pytest.raises(FailedPrecondition) as caught:
        file.write(ID)
    assert caught.value.hint == f"the id is {ID}"
    assert Path("/dev/full").exists()
