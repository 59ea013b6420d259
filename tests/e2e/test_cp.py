"""`shoal cp` and `shoal export` on a real daemon: docker's rules, ownership, and what a hostile container may try."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import ShoalError
from shoalctl.fleet.unpacking import LocalTarget
from tests.support.daemon import Fleet, running_fleet, until
from tests.support.evil_tars import evil_tars

CANARY = b"only the host may write this\n"


@pytest.fixture(scope="module")
def box(busybox: str) -> Iterator[Fleet]:
    """One host; container `up` runs, `down` does not, both with the volume `vol` at /v."""
    with running_fleet(1) as fleet:
        fleet.shoal("pull", busybox)
        fleet.shoal("run", "-d", "--name", "up", "-v", "vol:/v", busybox, "sleep", "100000")
        fleet.shoal("run", "--name", "down", "-v", "vol:/v", busybox, "true")
        yield fleet


@pytest.fixture(params=["up", "down"])
def name(request: pytest.FixtureRequest, box: Fleet) -> str:
    """A container that runs, and one that does not; /w is there."""
    empty = tarred({"w": None})
    subprocess.run(
        box.command("cp", "-", f"{request.param}:/"), input=empty, env=box.environment(), check=True, timeout=60
    )
    return str(request.param)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Files of the laptop."""
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "file").write_text("file\n")
    (tmp_path / "dir" / "a").write_text("a\n")
    (tmp_path / "dir" / "sub" / "b").write_text("b\n")
    (tmp_path / "dir" / "link").symlink_to("a")
    return tmp_path


def tarred(entries: dict[str, bytes | None], **fields: object) -> bytes:
    """A tar of files, and directories where the content is None."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in entries.items():
            member = tarfile.TarInfo(path)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode = 0o755 if content is None else 0o644
            for key, value in fields.items():
                setattr(member, key, value)
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return out.getvalue()


def listed(box: Fleet, name: str, path: str) -> dict[str, tarfile.TarInfo]:
    """What is at a path of the container."""
    done = subprocess.run(
        box.command("cp", f"{name}:{path}", "-"), capture_output=True, env=box.environment(), timeout=60, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return {member.name: member for member in archive}


def send(box: Fleet, name: str, path: str, data: bytes, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        box.command("cp", *flags, "-", f"{name}:{path}"),
        input=data,
        capture_output=True,
        env=box.environment(),
        timeout=60,
    )


# --- docker's rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("file", "/w", {"w", "w/file"}),
        ("file", "/w/", {"w", "w/file"}),
        ("file", "/w/other", {"w", "w/other"}),
        ("dir", "/w", {"w", "w/dir", "w/dir/a", "w/dir/link", "w/dir/sub", "w/dir/sub/b"}),
        ("dir/", "/w/", {"w", "w/dir", "w/dir/a", "w/dir/link", "w/dir/sub", "w/dir/sub/b"}),
        ("dir/.", "/w", {"w", "w/a", "w/link", "w/sub", "w/sub/b"}),
        ("dir", "/w/new", {"w", "w/new", "w/new/a", "w/new/link", "w/new/sub", "w/new/sub/b"}),
        ("dir/.", "/w/new", {"w", "w/new", "w/new/a", "w/new/link", "w/new/sub", "w/new/sub/b"}),
        ("dir", "/w/new/", {"w", "w/new", "w/new/a", "w/new/link", "w/new/sub", "w/new/sub/b"}),
        ("dir/link", "/w", {"w", "w/link"}),
    ],
)
def test_into_a_container(box: Fleet, here: Path, busybox: str, source: str, target: str, expected: set[str]) -> None:
    for running in ("sleep", "true"):
        box.shoal("run", "-d", "--name", "t", busybox, running, "1000")
        try:
            send(box, "t", "/", tarred({"w": None}))
            box.shoal("cp", f"{here}/{source}", f"t:{target}")
            assert set(listed(box, "t", "/w")) == expected
        finally:
            box.shoal("rm", "-f", "t")


@pytest.mark.parametrize(
    ("source", "target"),
    [("file", "/w/none/"), ("file", "/none/x"), ("dir", "/w/f"), ("file", "/w/f/"), ("nothing", "/w"), ("file/", "/w")],
)
def test_what_docker_refuses_into_a_container(box: Fleet, name: str, here: Path, source: str, target: str) -> None:
    send(box, name, "/w", tarred({"f": b"x"}))
    refused = box.shoal("cp", f"{here}/{source}", f"{name}:{target}", code=None)
    assert refused.returncode != 0
    assert refused.stderr


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("/w/dir", "out", {"out", "out/a", "out/sub", "out/sub/b"}),
        ("/w/dir", "there", {"there", "there/dir", "there/dir/a", "there/dir/sub", "there/dir/sub/b"}),
        ("/w/dir/.", "there", {"there", "there/a", "there/sub", "there/sub/b"}),
        ("/w/dir/.", "out", {"out", "out/a", "out/sub", "out/sub/b"}),
        ("/w/dir/a", "out", {"out"}),
        ("/w/dir/a", "there", {"there", "there/a"}),
        ("/w/dir/a", "./there/b", {"there", "there/b"}),
        ("/w/dir/a", "taken", {"taken"}),
    ],
)
def test_out_of_a_container(
    box: Fleet, name: str, tmp_path: Path, source: str, target: str, expected: set[str]
) -> None:
    send(box, name, "/w", tarred({"dir": None, "dir/a": b"a\n", "dir/sub": None, "dir/sub/b": b"b\n"}))
    (tmp_path / "there").mkdir()
    (tmp_path / "taken").write_text("old")
    box.shoal("cp", f"{name}:{source}", f"{tmp_path}/{target}")
    top = target.removeprefix("./").split("/")[0]
    found = {str(path.relative_to(tmp_path)) for path in [tmp_path / top, *(tmp_path / top).rglob("*")]}
    assert found == expected
    assert (tmp_path / "taken").read_text() == ("a\n" if target == "taken" else "old")


@pytest.mark.parametrize(
    ("source", "target"),
    [("/w/dir", "taken"), ("/w/none", "."), ("/w/f", "none/x"), ("/w/f", "none/"), ("/w/f/", "."), ("/w/f/x", ".")],
)
def test_what_docker_refuses_out_of_a_container(
    box: Fleet, name: str, tmp_path: Path, source: str, target: str
) -> None:
    send(box, name, "/w", tarred({"dir": None, "f": b"x"}))
    (tmp_path / "taken").write_text("old")
    refused = box.shoal("cp", f"{name}:{source}", f"{tmp_path}/{target}", code=None)
    assert refused.returncode != 0
    assert refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_owners_and_modes(box: Fleet, name: str, here: Path) -> None:
    os.chown(here / "file", 1234, 1235)
    (here / "file").chmod(0o640)
    box.shoal("cp", f"{here}/file", f"{name}:/w/plain")
    box.shoal("cp", "-a", f"{here}/file", f"{name}:/w/kept")
    found = listed(box, name, "/w")
    plain, kept = found["w/plain"], found["w/kept"]
    assert (plain.uid, plain.gid, plain.mode) == (0, 0, 0o640)
    assert (kept.uid, kept.gid, kept.mode) == (1234, 1235, 0o640)
    box.shoal("cp", f"{name}:/w/kept", f"{here}/mine")
    box.shoal("cp", "-a", f"{name}:/w/kept", f"{here}/theirs")
    assert (here / "mine").stat().st_uid == os.geteuid()
    assert (here / "theirs").stat().st_uid == 1234


def test_links_are_copied_or_followed(box: Fleet, name: str, here: Path) -> None:
    send(box, name, "/w", tarred({"real": b"real\n"}))
    box.shoal("cp", f"{here}/dir/link", f"{name}:/w/l")
    box.shoal("cp", "-L", f"{here}/dir/link", f"{name}:/w/f")
    found = listed(box, name, "/w")
    assert found["w/l"].issym()
    assert found["w/f"].isreg()
    box.shoal("cp", f"{here}/file", f"{name}:/w/a")
    box.shoal("cp", "-L", f"{name}:/w/l", f"{here}/followed")
    box.shoal("cp", f"{name}:/w/l", f"{here}/link")
    assert (here / "followed").read_text() == "file\n"
    assert os.readlink(here / "link") == "a"
    # A destination that is a link leads to where it leads in the container.
    send(box, name, "/w", tarred({"to": b""}, type=tarfile.SYMTYPE, linkname="/w/real"))
    box.shoal("cp", f"{here}/file", f"{name}:/w/to")
    out = subprocess.run(box.command("cp", f"{name}:/w/real", "-"), capture_output=True, env=box.environment())
    assert b"file\n" in out.stdout


def test_volumes_are_part_of_it(box: Fleet, name: str, here: Path) -> None:
    box.shoal("cp", f"{here}/file", f"{name}:/v/{name}")
    assert f"v/{name}" in listed(box, "up" if name == "down" else "down", "/v")


def test_a_read_only_root_refuses_and_its_volume_does_not(box: Fleet, here: Path, busybox: str) -> None:
    for command in (["sleep", "1000"], ["true"]):
        box.shoal("run", "-d", "--name", "ro", "--read-only", "-v", "vol:/v", busybox, *command)
        try:
            refused = box.shoal("cp", f"{here}/file", "ro:/etc/", code=1)
            assert "read-only" in refused.stderr.lower()
            box.shoal("cp", f"{here}/file", "ro:/v/")
        finally:
            box.shoal("rm", "-f", "ro")


def test_export_is_the_file_system_without_mounts(box: Fleet, name: str, here: Path) -> None:
    box.shoal("cp", f"{here}/file", f"{name}:/w/exported")
    box.shoal("cp", f"{here}/file", f"{name}:/v/volume-only")
    box.shoal("export", name, "-o", here / "x.tar")
    with tarfile.open(here / "x.tar") as archive:
        names = {member.name: member for member in archive}
    assert names["w/exported"].uid == 0
    assert "bin/busybox" in names
    assert not any(each.startswith("v/") for each in names)
    assert not any("wh." in each for each in names)
    piped = subprocess.run(box.command("export", name), capture_output=True, env=box.environment(), timeout=60)
    with tarfile.open(fileobj=io.BytesIO(piped.stdout)) as archive:
        assert "w/exported" in archive.getnames()


def test_a_container_starts_and_is_removed_after_a_copy(box: Fleet, here: Path, busybox: str) -> None:
    box.shoal("run", "--name", "again", busybox, "sh", "-c", "[ ! -e /x ] || cat /x")
    box.shoal("cp", f"{here}/file", "again:/x")
    box.shoal("start", "again")
    until(lambda: "file" in box.shoal("logs", "again").stdout)
    box.shoal("rm", "-f", "again")
    assert [path.name for path in box.first.run_dir.iterdir() if len(path.name) == 64] == [
        path.name for path in box.first.run_dir.iterdir() if len(path.name) == 64 and (path / "pidfile").exists()
    ]


# --- hostile archives -------------------------------------------------------------------------------------------------


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory of the host that anybody could write to, and that must stay as it is."""
    with tempfile.TemporaryDirectory(prefix="shoal-canary-", dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o777)
        (path / "file").write_bytes(CANARY)
        (path / "file").chmod(0o666)
        (path / "dir").mkdir()
        yield path
        assert (path / "file").read_bytes() == CANARY
        found = (path / "file").stat()
        assert (found.st_nlink, found.st_uid, found.st_mode & 0o7777) == (1, os.geteuid(), 0o666)
        assert sorted(each.name for each in path.iterdir()) == ["dir", "file"]
        assert not list((path / "dir").iterdir())


def test_no_archive_leads_out_of_a_container(box: Fleet, name: str, canary: Path) -> None:
    for evil in evil_tars(canary):
        send(box, name, "/w", evil.data)
    assert send(box, name, "/w", b"this is no tar archive" * 100).returncode == 1
    assert send(box, name, "/w", tarred({"x": b"y" * 5000})[:2000]).returncode == 1


def test_no_archive_leads_out_of_a_directory_of_the_laptop(canary: Path, tmp_path: Path) -> None:
    for number, evil in enumerate(evil_tars(canary)):
        inside = tmp_path / str(number)
        inside.mkdir()
        for name in ("x", "."):
            with contextlib.suppress(ShoalError):
                LocalTarget(str(inside), name).unpack(io.BytesIO(evil.data))
        outside = [path for path in tmp_path.iterdir() if not path.name.isdigit()]
        assert not outside, evil.name


# --- hostile containers -----------------------------------------------------------------------------------------------


def test_a_container_that_swaps_directory_and_link_reaches_nothing(box: Fleet, busybox: str, tmp_path: Path) -> None:
    """Row 5: thousands of copies of small files while links of the container point at a canary of the host."""
    host = Path("/var/tmp") / f"shoal-canary-{os.getpid()}"
    host.mkdir(mode=0o777)
    host.chmod(0o777)
    canary = host / "file"
    canary.write_bytes(CANARY)
    canary.chmod(0o666)
    swap = (
        "mkdir -p /race/real; cd /race; echo inside > real/file;"
        f"ln -s {host} link; ln -s /proc/self/root{host} magic; ln -s /proc/1/root{host} magic2;"
        "while :; do for l in link magic magic2; do mv real d 2>/dev/null; mv -T d real 2>/dev/null;"
        " ln -sfn $(readlink $l) d; rm -f d; done; done"
    )
    box.shoal("run", "-d", "--name", "racer", busybox, "sh", "-c", swap)
    try:
        until(lambda: box.shoal("cp", "racer:/race/link", "-", code=None).returncode == 0)
        payload = tarred({f"d/file{number}": b"evil\n" for number in range(300)} | {"d/file": b"evil\n"})
        for _ in range(8):
            send(box, "racer", "/race", payload)
            send(box, "racer", "/race/d", tarred({"file": b"evil\n", "new": b"evil\n"}))
            out = subprocess.run(
                box.command("cp", "-L", "racer:/race/d/file", "-"), capture_output=True, env=box.environment()
            )
            assert CANARY not in out.stdout
            out = subprocess.run(box.command("cp", "racer:/race", "-"), capture_output=True, env=box.environment())
            assert CANARY not in out.stdout
    finally:
        box.shoal("rm", "-f", "racer")
        assert canary.read_bytes() == CANARY
        shutil.rmtree(host)


def test_nothing_of_the_container_is_run_by_the_host(box: Fleet, busybox: str, here: Path) -> None:
    """Row 6: programs and libraries that a copying program might load, all replaced; one that runs leaves a mark."""
    marker = Path("/var/tmp") / f"shoal-marker-{os.getpid()}"
    script = ("#!/bin/sh\necho pwned > " + str(marker) + "\n").encode()
    names = [
        *(
            f"{place}/{tool}"
            for place in ("bin", "usr/bin", "usr/local/bin")
            for tool in ("tar", "xz", "gzip", "unpigz", "zstd", "python3")
        ),
        *(f"lib/x86_64-linux-gnu/libnss_{kind}.so.2" for kind in ("files", "dns", "compat", "systemd")),
        "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
        "etc/ld.so.preload",
        "usr/lib/python3.11/encodings/idna.py",
        "etc/ssl/openssl.cnf",
    ]
    out = tarred(dict.fromkeys(names, script), mode=0o755)
    for running in (["sleep", "1000"], ["true"]):
        box.shoal("run", "-d", "--name", "trojan", busybox, *running)
        try:
            assert send(box, "trojan", "/", out).returncode == 0
            for packed in (gzip.compress(tarred({"z/a": b"x"})), lzma.compress(tarred({"z/b": b"x"}))):
                assert send(box, "trojan", "/", packed).returncode == 0
            assert set(listed(box, "trojan", "/z")) == {"z", "z/a", "z/b"}
            box.shoal("cp", "trojan:/etc/passwd", f"{here}/p")
            box.shoal("export", "trojan", "-o", here / "x.tar")
            assert not marker.exists()
        finally:
            box.shoal("rm", "-f", "trojan")
