"""ADD of git repositories: branches, tags, commits and directories of them, what is refused, and what is not kept."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet
from tests.support.http_files import served

WHO = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")


class Repo:
    """A repository on loopback, over git's plain http."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *WHO, *arguments], cwd=self.directory, check=True, capture_output=True, text=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, text: str) -> str:
        (self.directory / "sub").mkdir(exist_ok=True)
        (self.directory / "file").write_text(text)
        (self.directory / "sub/tool").write_text(f"#!/bin/sh\necho {text}\n")
        (self.directory / "sub/tool").chmod(0o755)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text)
        self.git("update-server-info")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    made = Repo(tmp_path_factory.mktemp("repo"))
    made.git("init", "-q")
    made.commit("one")
    made.git("tag", "v1")
    made.git("branch", "old")
    made.commit("two")
    with served(made.directory) as url:
        made.url = f"{url}/.git"
        yield made


def build(host: Fleet, directory: Path, text: str, *flags: str, code: int = 0) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(text)
    done = host.shoal("build", "-t", "it", *flags, directory, code=code)
    return done.stdout + done.stderr


def test_branches_tags_commits_and_directories(host: Fleet, busybox: str, repo: Repo, tmp_path: Path) -> None:
    commit = repo.git("rev-parse", "v1")
    text = f"""FROM {busybox}
ADD {repo.url} /head
ADD {repo.url}#v1 /tag/
ADD --chown=7:8 {repo.url}#old:sub /sub
ADD --keep-git-dir=true --checksum={commit} {repo.url}#{commit} /kept
"""
    build(host, tmp_path, text, "--network", "host")
    show = "cat /head/file /tag/file /kept/file; echo; /sub/tool; ls -a /head; stat -c '%u:%g %a' /sub/tool /head/file"
    assert host.shoal("run", "--rm", "it", "sh", "-c", show).stdout.split() == [
        "twooneone", "one", ".", "..", "file", "sub", "7:8", "755", "0:0", "644",
    ]  # fmt: skip
    kept = host.shoal("run", "--rm", "it", "ls", "/kept/.git").stdout.split()
    assert "HEAD" in kept
    assert not {"FETCH_HEAD", "hooks", "logs"} & set(kept)
    assert build(host, tmp_path, text, "--network", "host").count("CACHED") == 5


def test_what_is_refused(host: Fleet, busybox: str, repo: Repo, tmp_path: Path) -> None:
    for number, (source, flags, word) in enumerate(
        (
            (repo.url, (), "address of the host itself"),
            (f"{repo.url}#none", ("--network", "host"), "has no none"),
            (f"--checksum={'0' * 40} {repo.url}", ("--network", "host"), f"not {'0' * 40}"),
            ("git@127.0.0.1:x.git", ("--network", "host"), "no http, https or git URL"),
            ("git://example.invalid/x.git", (), "anybody can change"),
            (f"{repo.url}#v1:nothing", ("--network", "host"), "not found"),
            (repo.url.replace(".git", "missing.git"), ("--network", "host"), "can't fetch"),
        )
    ):
        said = build(host, tmp_path / str(number), f"FROM {busybox}\nADD {source} /x\n", *flags, code=1)
        assert word in said, said
        assert "Dockerfile:2" in said


def test_a_repository_as_the_context(host: Fleet, busybox: str, repo: Repo) -> None:
    (repo.directory / "Dockerfile").write_text(f"FROM {busybox}\nCOPY . /all\n")
    (repo.directory / "sub/Other").write_text(f"FROM {busybox}\nCOPY tool /tool\n")
    repo.commit("three")
    host.shoal("build", "-t", "it", repo.url)
    assert host.shoal("run", "--rm", "it", "cat", "/all/file").stdout == "three"
    host.shoal("build", "-t", "it", "-f", "Other", f"{repo.url}#main:sub")
    assert host.shoal("run", "--rm", "it", "/tool").stdout == "three\n"
    assert "git fetch" in host.shoal("build", f"{repo.url}#none", code=1).stderr


class Family:
    """Repositories on one server that name each other as submodules, at commits that no branch is at any more."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url

    def make(self, name: str, submodules: dict[str, tuple[str, str]], gitmodules: str | None = None) -> str:
        """A repository with a file `NAME.txt` and submodules, {path: (url, commit)}; its commit."""
        repo = Repo(self.directory / name)
        repo.directory.mkdir()
        repo.git("init", "-q")
        (repo.directory / f"{name}.txt").write_text(name)
        sections = [f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n' for path, (url, _) in submodules.items()]
        if submodules or gitmodules:
            (repo.directory / ".gitmodules").write_text("".join(sections) if gitmodules is None else gitmodules)
        repo.git("add", "-A")
        for path, (_, commit) in submodules.items():
            repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        repo.git("commit", "-q", "-m", name)
        commit = repo.git("rev-parse", "HEAD")
        (repo.directory / "later").write_text("later")
        repo.git("add", "later")
        repo.git("commit", "-q", "-m", "later")
        repo.git("update-server-info")
        return commit


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    directory = tmp_path_factory.mktemp("family")
    with served(directory) as url:
        yield Family(directory, url)


@pytest.fixture(scope="module")
def parent(family: Family) -> str:
    """The URL of a repository with a submodule in a submodule, at a commit that is not its last."""
    grandchild = family.make("grandchild", {})
    child = family.make("child", {"deep/er": ("../../grandchild/.git", grandchild)})
    commit = family.make("parent", {"lib/child": (f"{family.url}/child/.git", child)})
    return f"{family.url}/parent/.git#{commit}"


def test_submodules(host: Fleet, busybox: str, parent: str, tmp_path: Path) -> None:
    text = f"FROM {busybox}\nADD {parent} /all\nADD {parent}:lib /lib\nADD --keep-git-dir=true {parent} /kept\n"
    build(host, tmp_path, text, "--network", "host")
    show = "find /all /lib | sort; find /kept -name .git | sort; cat /lib/child/deep/er/grandchild.txt"
    assert host.shoal("run", "--rm", "it", "sh", "-c", show).stdout.split() == [
        "/all",
        "/all/.gitmodules",
        "/all/lib",
        "/all/lib/child",
        "/all/lib/child/.gitmodules",
        "/all/lib/child/child.txt",
        "/all/lib/child/deep",
        "/all/lib/child/deep/er",
        "/all/lib/child/deep/er/grandchild.txt",
        "/all/parent.txt",
        "/lib",
        "/lib/child",
        "/lib/child/.gitmodules",
        "/lib/child/child.txt",
        "/lib/child/deep",
        "/lib/child/deep/er",
        "/lib/child/deep/er/grandchild.txt",
        "/kept/.git",
        "/kept/lib/child/.git",
        "/kept/lib/child/deep/er/.git",
        "grandchild",
    ]
    assert host.shoal("run", "--rm", "it", "sh", "-c", "find /all /lib ! -user 0").stdout == ""
    assert build(host, tmp_path, text, "--network", "host").count("CACHED") == 4


def test_git_itself_takes_a_kept_checkout_for_whole(host: Fleet, busybox: str, parent: str, tmp_path: Path) -> None:
    build(host, tmp_path, f"FROM {busybox}\nADD --keep-git-dir=true {parent} /kept\n", "--network", "host")
    host.shoal("create", "--name", "kept", "it")
    host.shoal("cp", "kept:/kept", tmp_path / "kept")
    host.shoal("rm", "kept")
    checkout = Repo(tmp_path / "kept")
    status = checkout.git("-c", "safe.directory=*", "submodule", "status", "--recursive").splitlines()
    assert [line.split()[1] for line in status] == ["lib/child", "lib/child/deep/er"]
    assert all(line[0] not in "-+U" for line in status[1:])
    assert checkout.git("-c", "safe.directory=*", "status", "--porcelain") == ""


def test_submodules_of_a_context(host: Fleet, busybox: str, family: Family) -> None:
    grandchild = family.make("grandchild2", {})
    commit = family.make("context", {"sub": ("../../grandchild2/.git", grandchild)})
    url = f"{family.url}/context/.git#{commit}"
    host.shoal("build", "-t", "it", "-f", "-", url, stdin=f"FROM {busybox}\nCOPY . /all\n")
    found = host.shoal("run", "--rm", "it", "sh", "-c", "find /all | sort").stdout.split()
    assert found == ["/all", "/all/.gitmodules", "/all/context.txt", "/all/sub", "/all/sub/grandchild2.txt"]
    keep = ("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    host.shoal("build", "-t", "it", *keep, "-f", "-", url, stdin=f"FROM {busybox}\nCOPY . /all\n")
    assert "HEAD" in host.shoal("run", "--rm", "it", "ls", "/all/.git").stdout.split()


HOSTILE = {
    "file": ("file:///etc", "no http, https or git URL"),
    "path": ("/etc", "no http, https or git URL"),
    "up": ("../../../../etc", "leads out of 127.0.0.1"),
    "ext": ("ext::sh -c id", "no http, https or git URL"),
    "option": ("-u./payload", "no http, https or git URL"),
    "ssh": ("ssh://127.0.0.1/x", "no http, https or git URL"),
    "scp": ("root@127.0.0.1:x", "no http, https or git URL"),
    "two-hosts": ("https://example.invalid\\\\@127.0.0.1/x", "no http, https or git URL"),
    "odd-host": ("https://127%2e0.0.1/x", "no http, https or git URL"),
    "missing": ("http://127.0.0.1:9/x.git", "submodule sub: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_submodules_at_places_where_nothing_is_fetched_from(
    host: Fleet, busybox: str, family: Family, tmp_path: Path, name: str
) -> None:
    url, word = HOSTILE[name]
    commit = family.make(f"hostile-{name}", {"sub": (url, "1" * 40)})
    source = f"{family.url}/hostile-{name}/.git#{commit}"
    said = build(host, tmp_path, f"FROM {busybox}\nADD {source} /x\n", "--network", "host", code=1)
    assert word in said, said
    assert "Dockerfile:2" in said


def test_a_submodule_without_a_url(host: Fleet, busybox: str, family: Family, tmp_path: Path) -> None:
    commit = family.make("stray", {"sub": ("x", "1" * 40)}, gitmodules="")
    source = f"{family.url}/stray/.git#{commit}"
    said = build(host, tmp_path, f"FROM {busybox}\nADD {source} /x\n", "--network", "host", code=1)
    assert "has no URL for it" in said


def test_gitmodules_that_is_a_link(host: Fleet, busybox: str, family: Family, tmp_path: Path) -> None:
    commit = family.make("linked", {"sub": ("../x", "1" * 40)}, gitmodules="x")
    repo = Repo(family.directory / "linked")
    repo.git("checkout", "-q", commit)
    (repo.directory / ".gitmodules").unlink()
    (repo.directory / ".gitmodules").symlink_to("/etc/passwd")
    repo.git("add", ".gitmodules")
    repo.git("commit", "-q", "-m", "link")
    repo.git("branch", "-f", "link")
    repo.git("update-server-info")
    source = f"{family.url}/linked/.git#link"
    said = build(host, tmp_path, f"FROM {busybox}\nADD {source} /x\n", "--network", "host", code=1)
    assert "that is no regular file" in said or "invalid path '.gitmodules'" in said, said
