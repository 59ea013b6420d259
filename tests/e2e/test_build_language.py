"""What Debian's Docker is too old to record of the Dockerfile language: ADD of URLs, --parents, symbolic modes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.build_context import write_context
from tests.support.daemon import Fleet
from tests.support.http_files import served


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The golden context, served on loopback."""
    directory = tmp_path_factory.mktemp("site")
    write_context(directory)
    with served(directory) as url:
        yield url


def build(host: Fleet, directory: Path, text: str, *flags: str, code: int = 0) -> str:
    """Build over the golden context; all that was printed."""
    directory.mkdir(exist_ok=True)
    write_context(directory)
    (directory / "Dockerfile").write_text(text)
    done = host.shoal("build", "-t", "lang", *flags, directory, code=code)
    return done.stdout + done.stderr


def listing(host: Fleet, *paths: str) -> list[str]:
    """Mode, owner and path of files of the image."""
    command = f"find {' '.join(paths)} | sort | xargs stat -c '%a %u:%g %n'"
    return host.shoal("run", "--rm", "lang", "sh", "-c", command).stdout.splitlines()


def test_add_fetches(host: Fleet, busybox: str, website: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"A\n").hexdigest()
    text = f"""FROM {busybox}
ADD {website}/a.txt /got/
ADD --checksum=sha256:{digest} --chown=7:8 --chmod=644 {website}/a.txt /named
ADD {website}/arc.tar /packed/
ADD --unpack=true {website}/arc.tar.gz /unpacked/
"""
    build(host, tmp_path, text, "--network", "host")
    assert listing(host, "/got", "/named", "/packed", "/unpacked") == [
        "755 0:0 /got",
        "600 0:0 /got/a.txt",
        "644 7:8 /named",
        "755 0:0 /packed",
        "600 0:0 /packed/arc.tar",
        "755 0:0 /unpacked",
        "755 0:0 /unpacked/in",
        "640 5:6 /unpacked/in/arc",
    ]
    again = build(host, tmp_path / "again", text, "--network", "host")
    assert again.count("CACHED") >= 5


def test_add_refuses_the_host_and_other_digests(host: Fleet, busybox: str, website: str, tmp_path: Path) -> None:
    said = build(host, tmp_path / "1", f"FROM {busybox}\nADD {website}/a.txt /a\n", code=1)
    assert "address of the host itself" in said
    assert "Dockerfile:2" in said
    text = f"FROM {busybox}\nADD --checksum=sha256:{'0' * 64} {website}/a.txt /a\n"
    assert "has the digest" in build(host, tmp_path / "2", text, "--network", "host", code=1)


def test_copy_keeps_parents(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"""FROM {busybox}
COPY --parents dir/sub/y a.txt /p/
COPY --parents dir/./sub /q/
COPY --parents **/*.txt /r/
"""
    build(host, tmp_path, text)
    paths = host.shoal("run", "--rm", "lang", "find", "/p", "/q", "/r").stdout.splitlines()
    assert sorted(paths) == [
        "/p",
        "/p/a.txt",
        "/p/dir",
        "/p/dir/sub",
        "/p/dir/sub/y",
        "/q",
        "/q/sub",
        "/q/sub/y",
        "/r",
        "/r/a.txt",
        "/r/b.txt",
        "/r/file[1].txt",
        "/r/sp ace.txt",
    ]
    assert "750 0:0 /p/dir" in listing(host, "/p")


def test_copy_changes_modes_by_symbols(host: Fleet, busybox: str, tmp_path: Path) -> None:
    build(host, tmp_path, f"FROM {busybox}\nCOPY --chmod=go-rwx,u+x a.txt /a\nCOPY --chmod=a=rX dir /d\n")
    found = listing(host, "/a", "/d")
    assert "700 0:0 /a" in found
    assert "444 0:0 /d/x" in found
    assert "555 0:0 /d/sub" in found


def test_a_dockerfile_does_not_take_the_hosts_network(host: Fleet, busybox: str, tmp_path: Path) -> None:
    said = build(host, tmp_path, f"FROM {busybox}\nRUN --network=host true\n", code=1)
    assert "--network=host is not allowed" in said


def test_a_later_source_wins_be_it_fetched_or_not(host: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/file").write_text("fetched")
    (tmp_path / "file").write_text("local")
    with served(tmp_path / "web") as url:
        (tmp_path / "Dockerfile").write_text(
            f"FROM {busybox}\nADD {url}/file file /one/\nADD file {url}/file /two/\n"
            f"ADD file {url}/file <<file /three/\nhere\nfile\n"
        )
        for _ in range(2):
            said = host.shoal("build", "-t", "it", "--network", "host", tmp_path).stderr
    shown = host.shoal("run", "--rm", "it", "cat", "/one/file", "/two/file", "/three/file").stdout
    assert shown == "localfetchedhere\n"
    assert said.count("CACHED") == 4


def test_inspect_shows_what_only_docker_has(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = (
        f'FROM {busybox}\nSHELL ["/bin/ash", "-c"]\nONBUILD RUN true\nHEALTHCHECK --interval=7s CMD ["true"]\n'
        "STOPSIGNAL SIGQUIT\n"
    )
    build(host, tmp_path / "c", text)
    [config] = (image["Config"] for image in host.json("inspect", "lang"))
    assert config["Shell"] == ["/bin/ash", "-c"]
    assert config["OnBuild"] == ["RUN true"]
    assert config["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 7_000_000_000}
    assert config["StopSignal"] == "SIGQUIT"
