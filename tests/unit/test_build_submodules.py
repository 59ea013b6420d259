"""Submodules: what a tree and its .gitmodules mean, and what of that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from shoal.errors import Internal, InvalidArgument, PermissionDenied, ShoalError
from shoald.build import git
from shoald.build.git import _Checkouts, _empty_directory, repository_of
from shoald.build.submodules import Submodule, check_path, gitlinks, submodules, without_login

COMMIT = "1" * 40
PARENT = "https://me:secret@host:8443/group/repo.git"


def settings(name: str, **values: str) -> str:
    return "".join(f"submodule.{name}.{key}\n{value}\0" for key, value in values.items())


def test_gitlinks_of_a_listing() -> None:
    listing = f"040000 tree {'2' * 40}\tlib\x00160000 commit {COMMIT}\tlib/a b\x00"
    assert gitlinks(listing) == {"lib/a b": COMMIT}
    assert gitlinks("") == {}


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("../other.git", "https://me:secret@host:8443/group/other.git"),
        ("./inner.git", "https://me:secret@host:8443/group/repo.git/inner.git"),
        ("../../else/x/", "https://me:secret@host:8443/else/x"),
        ("https://there/x.git", "https://there/x.git"),
    ],
)
def test_urls_are_relative_to_the_parent(url: str, resolved: str) -> None:
    found = submodules({"a.b/c": COMMIT}, settings("my.name", path="a.b/c", url=url), PARENT)
    assert found == [Submodule("my.name", "a.b/c", resolved, COMMIT)]


def test_a_login_is_not_shown() -> None:
    assert without_login(PARENT) == "https://host:8443/group/repo.git"


def test_sections_without_a_gitlink_and_switched_off_ones_are_left_out() -> None:
    told = settings("gone", path="gone", url="../x") + settings("off", path="off", url="../x", update="none")
    assert submodules({"off": COMMIT}, told, PARENT) == []


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ("", "no URL"),
        (settings("x", path="sub"), "no URL"),
        (settings("x", path="other", url="../x"), "no URL"),
        (settings("x", path="sub", url="../x", update="!touch /tmp/x"), "is a command"),
        (settings("../../modules/x", path="sub", url="../x"), "no plain name"),
        (settings("a\\..\\b", path="sub", url="../x"), "no plain name"),
        (settings("-x", path="sub", url="../x"), "no plain name"),
        (settings("x", path="sub", url="../../../evil/x"), "leads out of host"),
    ],
)
def test_what_gitmodules_may_not_say(told: str, word: str) -> None:
    with pytest.raises(InvalidArgument, match=word) as raised:
        submodules({"sub": COMMIT}, told, PARENT)
    assert raised.value.reason == "SUBMODULE_REFUSED"


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc",
        "a//b",
        "a/./b",
        "",
        ".git",
        "a/.GIT/hooks",
        ".git . /x",
        "-x",
        "sub\r",
        " sub",
        "a\nb",
    ],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b-c", "a/.github", "a b", "ü/x", "..a"])
def test_paths_that_are_not(path: str) -> None:
    check_path(path)


def test_a_submodule_goes_into_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/full").mkdir()
    (tmp_path / "real/full/.git").write_text("gitdir: /elsewhere")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out").symlink_to("/etc")
    assert _empty_directory(tmp_path, "real/sub") == tmp_path / "real/sub"
    for path in ("link/sub", "real/out", "real/full", "real/nothing"):
        with pytest.raises(InvalidArgument):
            _empty_directory(tmp_path, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/.git",
        "http://localhost/x.git",
        "https://127.1/x.git",
        "http://2130706433/x.git",
        "http://[::1]/x.git",
        "http://[::ffff:169.254.169.254]/x.git",
        "https://10.99.0.7/x.git",
        "git://198.51.100.1/x.git",
    ],
)
def test_submodules_do_not_lead_to_the_host(tmp_path: Path, url: str) -> None:
    checkouts = _Checkouts(local=False, networks=["10.99.0.0/16"])
    (tmp_path / "sub").mkdir()
    with pytest.raises(PermissionDenied) as raised:
        asyncio.run(checkouts._make_submodule(tmp_path, Submodule("sub", "sub", url, COMMIT), 0))
    assert raised.value.reason == "URL_REFUSED"
    assert not list((tmp_path / "sub").iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "https://a@b@c/x.git", "https://host\\@evil/x.git", "https://host:99999/x.git", "https://host:x/x.git",
        "https:///x.git", "https://a b/x.git", "https://host./x.git", "https://\u2460.example/x.git", "http://[fe80::1%25lo]/x.git",
    ],
)  # fmt: skip
def test_urls_that_programs_could_read_differently(url: str) -> None:
    with pytest.raises(ShoalError) as raised:
        repository_of(url)
    assert raised.value.reason == "INVALID_URL"


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://198.51.100.1/x.git", True),
        ("http://169.254.169.254/x.git", False),
        ("https://only-the-proxy-knows.invalid/x.git", True),
        ("http://127.0.0.1/x.git", False),
    ],
)
def test_git_asks_the_proxy_where_no_address_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, proxied: bool
) -> None:
    seen: list[Mapping[str, str]] = []

    async def run(argv: object, *, env: Mapping[str, str], **_: object) -> None:
        seen.append(env)
        raise Internal("enough", reason="ENOUGH")

    monkeypatch.setattr(git, "run", run)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    # Programs differ in whether they take a subnet there.
    monkeypatch.setenv("no_proxy", "198.51.100.0/24,127.0.0.1")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ShoalError) as raised:
        asyncio.run(_Checkouts(local=False, networks=[]).make(tmp_path / "sub", repository_of(url)))
    assert raised.value.reason == ("ENOUGH" if proxied else "URL_REFUSED")
    told = [{name: env[name] for name in env if name.lower().endswith("_proxy")} for env in seen]
    proxy = "http://proxy.example:3128"
    assert told == ([{"http_proxy": proxy, "https_proxy": proxy}] if proxied else [])
