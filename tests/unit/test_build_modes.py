"""--chmod, held against chmod(1)."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoald.build.modes import mode_change

CLAUSES = [
    "u+x",
    "go-w",
    "a=rX",
    "u=rwx,g=rx,o=",
    "+x",
    "=",
    "g=u",
    "o=g,u-w",
    "ug+s",
    "+t",
    "a+X",
    "u-s,o+t",
    "g+rw-x",
]


@pytest.mark.parametrize("text", CLAUSES)
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o4755, 0o2770, 0o1777, 0])
@pytest.mark.parametrize("directory", [False, True])
def test_as_chmod_does(text: str, mode: int, directory: bool, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if directory:
        path.mkdir()
    else:
        path.touch()
    path.chmod(mode)
    subprocess.run(["chmod", text, str(path)], check=True, umask=0)
    change = mode_change(text)
    assert change is not None
    assert oct(change.apply(mode, directory=directory)) == oct(stat.S_IMODE(path.stat().st_mode))


@pytest.mark.parametrize(("text", "mode"), [("755", 0o755), ("0644", 0o644), ("4755", 0o4755), ("0", 0)])
def test_octal(text: str, mode: int) -> None:
    change = mode_change(text)
    assert change is not None
    assert change.apply(0o123, directory=False) == mode


@pytest.mark.parametrize("text", ["999", "u", "x+u", "u+q", "u+x,", ",", "07777777", "u=rwx;rm"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        mode_change(text)


def test_nothing_is_nothing() -> None:
    assert mode_change("") is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ugoa+-=rwxXst,", max_size=12), st.integers(0, 0o7777), st.booleans())
def test_only_ever_permission_bits(text: str, mode: int, directory: bool) -> None:
    try:
        change = mode_change(text)
    except InvalidArgument:
        return
    if change is not None:
        assert 0 <= change.apply(mode, directory=directory) <= 0o7777
