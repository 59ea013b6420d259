"""ADD of git repositories: branches, tags, commits and directories of them, what is refused, and what is not kept."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Fleet

WHO = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


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
    handler = functools.partial(_Quiet, directory=str(made.directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}/.git"
        yield made
        server.shutdown()
        thread.join()


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
