"""Git repositories as contexts: what is one, and what it names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument, NotFound, Unavailable
from shoal.git_url import GitUrl
from shoalctl.flags.git_url import is_git_url
from shoalctl.fleet.git_context import checked_out

WHO = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/a.git", True), ("https://h/a.git#main:dir", True), ("git@h:a/b.git", True), ("ssh://h/a", True),
        ("git://h/a", True), ("github.com/a/b", True), ("https://h/a.tar.gz", False), ("./a.git", False), (".", False),
        ("-", False), ("dir/github.com/x", False),
    ],
)  # fmt: skip
def test_what_is_a_repository(text: str, wanted: bool) -> None:
    assert is_git_url(text) == wanted


def test_parts() -> None:
    assert GitUrl.parse("https://h/a.git#v1:x/y") == GitUrl("https://h/a.git", "v1", "x/y")
    assert GitUrl.parse("github.com/a/b") == GitUrl("https://github.com/a/b", "", "")
    for wrong in ("https://h/a.git#-x", "https://h/a.git#a b", "https://h/a.git#:../x"):
        with pytest.raises(InvalidArgument):
            GitUrl.parse(wrong)


def test_a_repository_is_checked_out_and_gone_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", *WHO, *arguments], cwd=tmp_path / "r", check=True, capture_output=True)

    (tmp_path / "r/sub").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    git("init", "-q")
    for text in ("one", "two"):
        (tmp_path / "r/sub/f").write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", text)
        git("tag", text)
    url = f"file://{tmp_path}/r"
    with checked_out(url) as directory:
        assert Path(directory, "sub/f").read_text() == "two"
    with checked_out(f"{url}#one:sub") as directory:
        assert Path(directory, "f").read_text() == "one"
    with pytest.raises(NotFound), checked_out(f"{url}#one:none"):
        pass
    with pytest.raises(Unavailable), checked_out(f"{url}#none"):
        pass
    assert list((tmp_path / "tmp").iterdir()) == []
