"""The packages of a whole file system. Nothing in an image makes it raise, hang or leave the image's root."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from shoald.attest import inventory as inventory_module
from shoald.attest.inventory import packages_of_image
from shoald.attest.package import Inventory
from shoald.host import imagefiles
from shoald.host.imagefiles import ImageFiles, Unreadable, UsedUp

STATUS = "Package: bash\nStatus: install ok installed\nVersion: 5.2\nArchitecture: amd64\n"


def put(root: Path, path: str, text: str | bytes) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return place


def purls(found: Inventory) -> list[str]:
    return [package.purl for package in found.packages]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_an_image_with_everything(root: Path) -> None:
    put(root, "usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\n')
    (root / "etc").mkdir()
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    put(root, "var/lib/dpkg/status", STATUS)
    put(root, "usr/share/doc/bash/copyright", "Format: x\n\nFiles: *\nLicense: GPL-3+\n")
    put(root, "var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a\nArchitecture: all\n")
    put(root, "var/lib/dpkg/status.d/tzdata.md5sums", "Package: no\nVersion: 1\n")
    put(root, "usr/lib/python3/dist-packages/six-1.16.0.egg-info", "Name: six\nVersion: 1.16.0\n")
    put(root, "usr/lib/python3/dist-packages/b.egg-info/PKG-INFO", "Name: b\nVersion: 2\n")
    put(root, "opt/venv/lib/python3.11/site-packages/a-1.dist-info/METADATA", "Name: a\nVersion: 1\n")
    put(root, "app/node_modules/left-pad/package.json", '{"name":"left-pad","version":"1.3.0"}')
    put(root, "app/node_modules/left-pad/lib/package.json", '{"name":"inner","version":"0"}')
    put(root, "app/node_modules/@a/b/package.json", '{"name":"@a/b","version":"1"}')
    put(root, "app/node_modules/@a/b/node_modules/c/package.json", '{"name":"c","version":"3"}')
    put(root, "app/node_modules/.cache/package.json", '{"name":"no","version":"1"}')
    found = packages_of_image(root)
    assert purls(found) == [
        "pkg:deb/debian/bash@5.2?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@2024a?arch=all&distro=debian-12",
        "pkg:npm/%40a/b@1",
        "pkg:npm/c@3",
        "pkg:npm/left-pad@1.3.0",
        "pkg:pypi/a@1",
        "pkg:pypi/b@2",
        "pkg:pypi/six@1.16.0",
    ]
    assert (found.distribution, found.warnings) == ("debian 12", ())
    assert found.packages[0].licence == "GPL-3.0-or-later"
    assert found.packages[2].location == "/app/node_modules/@a/b/package.json"
    assert found == packages_of_image(root)


def test_a_database_with_two_paths_is_read_once(root: Path) -> None:
    put(root, "usr/lib/apk/db/installed", "P:musl\nV:1.2\nA:x86_64\n\n")
    (root / "lib").symlink_to("usr/lib")
    assert purls(packages_of_image(root)) == ["pkg:apk/alpine/musl@1.2?arch=x86_64"]


def rpm_header(name: str) -> bytes:
    store = name.encode() + b"\x001\0"
    index = struct.pack(">IIIIIIII", 1000, 6, 0, 1, 1001, 6, len(name) + 1, 1)
    return struct.pack(">II", 2, len(store)) + index + store


def test_rpm(root: Path) -> None:
    place = put(root, "usr/lib/sysimage/rpm/rpmdb.sqlite", "")
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
        connection.execute("INSERT INTO Packages (blob) VALUES (?)", (rpm_header("bash"),))
    connection.close()
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    found = packages_of_image(root)
    assert (purls(found), found.warnings) == (["pkg:rpm/bash@1"], ())
    put(root, "usr/lib/sysimage/rpm/rpmdb.sqlite-wal", "changes")
    (warning,) = packages_of_image(root).warnings
    assert warning.startswith("/var/lib/rpm/rpmdb.sqlite-wal: the changes in it")


def test_old_rpm(root: Path) -> None:
    put(root, "var/lib/rpm/Packages", b"\0" * 100)
    (warning,) = packages_of_image(root).warnings
    assert warning.startswith("/var/lib/rpm/Packages: only rpm's databases in SQLite")


def test_an_empty_image(root: Path) -> None:
    assert packages_of_image(root) == Inventory()


def test_no_root(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        packages_of_image(tmp_path / "none")


@pytest.mark.parametrize("path", ["var/lib/dpkg/status", "etc/os-release", "lib/apk/db/installed"])
@pytest.mark.parametrize("target", ["/canary", "../../../../../../../../canary", "{outside}/canary"])
def test_links_stay_inside(root: Path, path: str, target: str) -> None:
    put(root.parent, "canary", STATUS + "\n\nP:evil\nV:1\n\nID=evil\n")
    place = root / path
    place.parent.mkdir(parents=True)
    place.symlink_to(target.format(outside=root.parent))
    found = packages_of_image(root)
    assert (found.packages, found.distribution) == ((), "")
    put(root, "canary", STATUS + "\n\nP:mine\nV:1\n\n")
    if "{outside}" not in target and path != "etc/os-release":
        assert len(packages_of_image(root).packages) == 1  # the image's own


def test_directories_that_lead_out_are_not_walked(root: Path) -> None:
    put(root.parent, "out/node_modules/evil/package.json", '{"name":"evil","version":"1"}')
    (root / "app").symlink_to(root.parent / "out")
    (root / "loop").mkdir()
    (root / "loop/node_modules").symlink_to("../loop")
    (root / "node_modules").mkdir()
    (root / "node_modules/evil").symlink_to(root.parent / "out/node_modules/evil")
    (root / "node_modules/real").mkdir()
    (root / "node_modules/real/package.json").symlink_to(root.parent / "out/node_modules/evil/package.json")
    assert packages_of_image(root) == Inventory()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # zero: it never ends
    except PermissionError:
        pytest.skip("devices are made by root")


KINDS = [fifo, directory, unix_socket, circle, sparse, device]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: str(make.__name__))
@pytest.mark.parametrize(
    "path",
    [
        "var/lib/dpkg/status",
        "var/lib/dpkg/status.d/x",
        "lib/apk/db/installed",
        "var/lib/rpm/rpmdb.sqlite",
        "var/lib/rpm/rpmdb.sqlite-wal",
        "usr/share/doc/bash/copyright",
        "etc/os-release",
        "x/site-packages/a.dist-info/METADATA",
        "x/node_modules/a/package.json",
    ],
)
def test_what_is_no_file_gives_a_warning(root: Path, path: str, make: Callable[[Path], None]) -> None:
    put(root, "var/lib/dpkg/status.d/bash", "Package: bash\nVersion: 1\n")
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    make(place)
    found = packages_of_image(root)
    assert purls(found) == ["pkg:deb/debian/bash@1"]
    if make is not directory or "dist-info" not in path:
        assert len(found.warnings) <= 1
    if make is not directory and not (make is sparse and path.endswith("-wal")):
        (warning,) = found.warnings
        assert place.name in warning or "licence of bash" in warning


def test_directories_of_databases_that_are_none(root: Path) -> None:
    put(root, "var/lib/dpkg/status", STATUS)
    put(root, "var/lib/dpkg/status.d", "a file")
    (root / "var/lib/rpm").symlink_to("rpm")
    found = packages_of_image(root)
    assert len(found.packages) == 1
    assert {warning.partition(":")[0] for warning in found.warnings} >= {"/var/lib/rpm"}


def test_broken_databases_keep_what_came_before(root: Path) -> None:
    put(root, "var/lib/dpkg/status", STATUS.encode() + b"\n\xff\xfe\x00\x1b[31m: x\nVersion\n\n" * 10)
    put(root, "x/node_modules/a/package.json", b"[" * 900_000)
    put(root, "x/node_modules/b/package.json", b'{"name":"b"')
    put(root, "x/node_modules/c\x1b[31m/package.json", "{}")
    put(root, "x/a.dist-info/METADATA", b"\0")
    put(root, "var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0" + bytes(8192))
    found = packages_of_image(root)
    assert purls(found) == ["pkg:deb/debian/bash@5.2?arch=amd64"]
    assert len(found.warnings) == 5
    assert all(warning.isprintable() for warning in found.warnings)
    assert any(warning.startswith("/x/node_modules/c[31m/package.json: ") for warning in found.warnings)


def test_names_that_are_not_utf8(root: Path) -> None:
    place = os.fsencode(root) + b"/\xff\xfe/node_modules/a"
    os.makedirs(place)
    with open(place + b"/package.json", "w") as file:
        json.dump({"name": "a", "version": "1", "license": "MIT\u202e"}, file)
    (package,) = packages_of_image(root).packages
    assert package.location == "//node_modules/a/package.json"
    assert package.licence == "MIT"
    assert package.purl == "pkg:npm/a@1"


def test_numbers_are_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(root, f"x/node_modules/p{number:02}/package.json", json.dumps({"name": f"p{number}", "version": "1"}))
        put(root, f"y/node_modules/p{number:02}/package.json", "{")
    monkeypatch.setattr(inventory_module, "MAX_PACKAGES", 10)
    found = packages_of_image(root)
    assert len(found.packages) == 10
    assert found.warnings[-1] == "there are more than 10 packages; the others are left out"
    monkeypatch.setattr(inventory_module, "MAX_PACKAGES", 100)
    monkeypatch.setattr(inventory_module, "MAX_WARNINGS", 3)
    found = packages_of_image(root)
    assert (len(found.packages), len(found.warnings)) == (30, 3)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("MAX_FILES", 5, "more than 5 files"), ("MAX_BYTES", 200, "more than 0 MiB"), ("MAX_ENTRIES", 40, "more than 40")],
)
def test_what_is_read_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int, why: str) -> None:
    for number in range(30):
        put(root, f"x/node_modules/p{number:02}/package.json", json.dumps({"name": f"p{number}", "version": "1"}))
    monkeypatch.setattr(imagefiles, name, value)
    found = packages_of_image(root)
    assert len(found.packages) < 30
    assert found.warnings == (f"not all files were looked at: {found.warnings[0].partition(': ')[2]}",)
    assert why in found.warnings[0]


def test_deep_trees_end(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(imagefiles.MAX_DEPTH + 10):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("node_modules", dir_fd=here)
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    (warning,) = packages_of_image(root).warnings
    assert warning.startswith(f"what is below {imagefiles.MAX_DEPTH} directories is not looked at: /ddd")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernels_directories_are_left_out(root: Path) -> None:
    put(root, "proc/1/root/node_modules/a/package.json", '{"name":"a","version":"1"}')
    put(root, "app/proc/node_modules/b/package.json", '{"name":"b","version":"1"}')
    assert purls(packages_of_image(root)) == ["pkg:npm/b@1"]


def test_files_of_an_image(root: Path) -> None:
    put(root, "a/b", "0123456789")
    with ImageFiles(root) as files:
        assert files.read("/a/b", 10) == b"0123456789"
        assert files.read("a/../../a/b", 10) == b"0123456789"
        assert files.read("a/c", 10) is None
        assert files.read("a/b/c", 10) is None
        assert files.read("a\0b", 10) is None
        with pytest.raises(Unreadable, match="more than 9 bytes"):
            files.read("a/b", 9)
        with files.opened("a/b") as file:
            assert file is not None
            assert (file.at(2, 3), file.at(8, 100), file.at(100, 1)) == (b"234", b"89", b"")
            with pytest.raises(Unreadable):
                file.at(1 << 70, 1)
            with pytest.raises(UsedUp):
                file.at(0, imagefiles.MAX_BYTES)
        assert files.names("a") == ["b"]
        assert files.names("a/b") == []
        assert [here.path for here in files.walk()] == ["", "a"]
