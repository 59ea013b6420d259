"""COPY shares files between contexts and layers; nobody who writes to one changes another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.test_build_inputs import build, run
from tests.support.daemon import Fleet


def inodes(host: Fleet, name: str) -> list[int]:
    """Of all files of the name that the daemon keeps, in contexts and layers."""
    return [path.lstat().st_ino for path in host.first.root.rglob(name)]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "c"
    directory.mkdir()
    for number in range(120):
        (directory / f"shared-{number}").write_text(f"content {number}\n")
    return directory


def test_one_file_of_many_layers(host: Fleet, busybox: str, context: Path) -> None:
    text = f"FROM {busybox} AS a\nCOPY . /a/\nFROM {busybox}\nCOPY --from=a /a /b\nCOPY --chmod=600 shared-7 /c/\n"
    build(host, context, text)
    assert len(inodes(host, "shared-3")) == 3
    assert len(set(inodes(host, "shared-3"))) == 1
    assert len(set(inodes(host, "shared-7"))) == 2, "another mode is another file"
    assert run(host, "cat", "/b/shared-3", "/c/shared-7") == "content 3\ncontent 7\n"


def test_whoever_writes_has_a_copy(host: Fleet, busybox: str, context: Path) -> None:
    text = f"""FROM {busybox} AS a
COPY . /a/
FROM a AS changed
RUN echo more >> /a/shared-3 && chmod 600 /a/shared-4 && chown 5 /a/shared-5
RUN rm /a/shared-6 && touch -d @1 /a/shared-7
FROM {busybox}
COPY --from=a /a /plain
COPY --from=changed /a /changed
"""
    build(host, context, text)
    told = run(host, "sh", "-c", "cd /plain; stat -c '%a %u %Y' shared-4 shared-5 shared-7; cat shared-3 shared-6")
    when = [str(int(os.stat(context / f"shared-{number}").st_mtime)) for number in (4, 5, 7)]
    assert told == "".join(f"644 0 {time}\n" for time in when) + "content 3\ncontent 6\n"
    told = run(
        host, "sh", "-c", "cd /changed; stat -c '%a %u' shared-4 shared-5; stat -c %Y shared-7; cat shared-3; ls"
    )
    assert told.startswith("600 0\n644 5\n1\ncontent 3\nmore\n")
    assert "shared-6\n" not in told
    host.shoal("run", "--name", "w", "it", "sh", "-c", "echo x > /plain/shared-1; chmod 4755 /plain/shared-2")
    host.shoal("rm", "w")
    assert run(host, "sh", "-c", "cat /plain/shared-1; stat -c %a /plain/shared-2") == "content 1\n644\n"
    # The context is kept as it was, too.
    assert "CACHED" in build(host, context, f"FROM {busybox}\nCOPY . /a/\n")
    assert run(host, "cat", "/a/shared-1") == "content 1\n"


def test_what_goes_takes_nothing_along(host: Fleet, busybox: str, context: Path) -> None:
    build(host, context, f"FROM {busybox}\nCOPY . /a/\n")
    (context / "shared-1").write_text("changed\n")
    host.shoal("tag", "it", "old")
    build(host, context, f"FROM {busybox}\nCOPY . /a/\n")
    assert run(host, "cat", "/a/shared-1", "/a/shared-2") == "changed\ncontent 2\n"
    assert host.shoal("run", "--rm", "old", "cat", "/a/shared-1", "/a/shared-2").stdout == "content 1\ncontent 2\n"
    host.shoal("rmi", "old")
    host.shoal("builder", "prune", "-af")
    assert run(host, "cat", "/a/shared-1", "/a/shared-2") == "changed\ncontent 2\n"


def test_no_two_files_of_an_image_are_one(host: Fleet, busybox: str, context: Path, tmp_path: Path) -> None:
    """They would be hard links in an archive, and `cp` would take one for the other."""
    text = f"FROM {busybox} AS a\nCOPY . /a/\nFROM {busybox}\nCOPY --from=a /a /a\nCOPY . /b/\n"
    build(host, context, text)
    assert run(host, "sh", "-c", "cp /a/shared-1 /b/shared-1 && stat -c %i /?/shared-* | sort | uniq -d") == ""
    build(host, context, text, "-o", f"type=local,dest={tmp_path / 'out'}")
    for part in ("a", "b"):
        files = sorted((tmp_path / "out" / part).glob("shared-*"))
        assert len(files) == 120
        assert {path.stat().st_nlink for path in files} == {1}
