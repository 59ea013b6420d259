"""rpm's database: SQLite read without SQLite, against SQLite itself; headers; damage."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoald.attest import sqlitefile
from shoald.attest.distribution import Distribution
from shoald.attest.package import Damaged
from shoald.attest.rpm import parse_rpm, read_header
from shoald.attest.sqlitefile import ReadAt, table_rows

FEDORA = Distribution("fedora", "39")


def header(*entries: tuple[int, int, bytes]) -> bytes:
    """A header of (tag, type, data)."""
    index, store = b"", b""
    for tag, kind, data in entries:
        store += b"\0" * (-len(store) % 4 if kind == 4 else 0)
        index += struct.pack(">IIII", tag, kind, len(store), 1)
        store += data
    return struct.pack(">II", len(entries), len(store)) + index + store


def package(name: str, version: str = "1.2", **tags: str) -> bytes:
    numbers = {"release": 1001 + 1, "vendor": 1011, "licence": 1014, "packager": 1015, "url": 1020, "arch": 1022}
    entries = [(1000, 6, name.encode() + b"\0"), (1001, 6, version.encode() + b"\0")]
    entries += [(numbers[key], 6, value.encode() + b"\0") for key, value in tags.items() if key in numbers]
    if "source" in tags:
        entries.append((1044, 6, tags["source"].encode() + b"\0"))
    if "epoch" in tags:
        entries.append((1003, 4, struct.pack(">I", int(tags["epoch"]))))
    return header((62, 7, b"\0" * 16), *entries, (1004, 9, b"summary\0"), (5093, 6, b"a tag of the future\0"))


def database(path: Path, blobs: list[bytes], *, page_size: int = 4096, before: int = 0) -> ReadAt:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        for number in range(before):
            connection.execute(f"CREATE TABLE other{number} (a INTEGER PRIMARY KEY, b TEXT)")
            connection.execute(f"CREATE INDEX i{number} ON other{number} (b)")
        connection.execute("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
    connection.close()
    return reader(path.read_bytes())


def reader(body: bytes) -> ReadAt:
    return lambda offset, size: body[offset : offset + size]


BASH = package(
    "bash",
    "5.2.26",
    release="1.fc39",
    vendor="Fedora Project",
    licence="GPL-3.0-or-later",
    packager="Fedora Project",
    url="https://www.gnu.org/software/bash",
    arch="x86_64",
    source="bash-5.2.26-1.fc39.src.rpm",
)


def test_packages(tmp_path: Path) -> None:
    key = package("gpg-pubkey", "18b8e74c", release="62f2920f")
    shadow = package("shadow-utils", "4.14.0", release="2.fc39", epoch="2", arch="x86_64", licence="(none)")
    plain = package("basesystem", "11", epoch="0", arch="(none)")
    bash, utils, base = parse_rpm(database(tmp_path / "db", [BASH, key, shadow, plain]), "/db", FEDORA)
    assert bash.purl == (
        "pkg:rpm/fedora/bash@5.2.26-1.fc39?arch=x86_64&distro=fedora-39&upstream=bash-5.2.26-1.fc39.src.rpm"
    )
    assert (bash.licence, bash.supplier, bash.homepage) == (
        "GPL-3.0-or-later",
        "Fedora Project",
        "https://www.gnu.org/software/bash",
    )
    assert utils.purl == "pkg:rpm/fedora/shadow-utils@4.14.0-2.fc39?arch=x86_64&distro=fedora-39&epoch=2"
    assert utils.licence == ""
    assert (base.version, base.purl) == ("11", "pkg:rpm/fedora/basesystem@11?distro=fedora-39")


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("before", [0, 60])
def test_tables_of_any_shape(tmp_path: Path, page_size: int, before: int) -> None:
    sizes = [0, 1, 50, 200, 400, 477, 478, 505, 509, 513, 4061, 4062, 4096, 9000, 65501, 70000, 300_000] * 12
    blobs = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    read_at = database(tmp_path / "db", blobs, page_size=page_size, before=before)
    assert [row[1] for row in table_rows(read_at, "Packages")] == blobs


def test_values(tmp_path: Path) -> None:
    rows = [[None, "text", b"blob", 0, 1, -1, 127, -32768, 8388607, 2**31, -(2**47), 2**63 - 1, 1.5, "", b""]]
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute(f"CREATE TABLE t ({','.join(f'c{n}' for n in range(15))})")
        connection.executemany(f"INSERT INTO t VALUES ({','.join('?' * 15)})", rows)
    connection.close()
    (found,) = table_rows(reader((tmp_path / "db").read_bytes()), "t")
    wanted: list[Any] = [each.encode() if isinstance(each, str) else each for each in rows[0]]
    wanted[12] = None  # floats are not read
    assert found == wanted


def test_no_database(tmp_path: Path) -> None:
    for body in (b"", b"SQLite format 3\0", b"x" * 200, b"SQLite format 3\0" + bytes(4096)):
        with pytest.raises(Damaged):
            list(table_rows(reader(body), "Packages"))
    with pytest.raises(Damaged, match="no table Files"):
        list(table_rows(database(tmp_path / "db", []), "Files"))


def test_pages_in_a_circle_and_huge_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database(tmp_path / "db", [bytes([n]) * 3000 for n in range(100)])
    body = bytearray((tmp_path / "db").read_bytes())
    root = 2
    start = (root - 1) * 4096
    assert body[start] == 5
    body[start + 8 : start + 12] = struct.pack(">I", root)  # its last child is itself
    with pytest.raises(Damaged, match="used twice"):
        list(table_rows(reader(bytes(body)), "Packages"))
    read_at = database(tmp_path / "big", [b"x" * 50_000])
    monkeypatch.setattr(sqlitefile, "MAX_ROW", 49_000)
    with pytest.raises(Damaged, match="more than 49000 bytes"):
        list(table_rows(read_at, "Packages"))
    monkeypatch.setattr(sqlitefile, "MAX_ROW", 60_000)
    monkeypatch.setattr(sqlitefile, "MAX_PAGES", 8)
    with pytest.raises(Damaged, match="more than 8 pages"):
        list(table_rows(read_at, "Packages"))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0" * 7,
        struct.pack(">II", 2**32 - 1, 8) + bytes(100),
        struct.pack(">II", 1, 2**32 - 1) + bytes(100),
        struct.pack(">IIIIII", 1, 4, 1000, 6, 4, 1) + b"abcd",
        struct.pack(">IIIIII", 1, 4, 1000, 6, 2**32 - 1, 1) + b"abcd",
    ],
)
def test_broken_headers(blob: bytes) -> None:
    with pytest.raises(Damaged):
        read_header(blob)


def test_odd_headers() -> None:
    assert read_header(header((1000, 6, b"no end"))) == {1000: "no end"}
    assert read_header(header((1000, 6, b"\xff\x1b[1m\0"))) == {1000: "\ufffd[1m"}
    assert read_header(header((1003, 4, b"\0\0"))) == {}
    assert read_header(header((1000, 5, b"a number?"))) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 24575), st.integers(0, 255)), min_size=1, max_size=30))
def test_damage_is_damage(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "base"
    if not path.exists():
        database(path, [package(f"p{n}", release="1") + b"\0" * (n * 40) for n in range(30)])
    body = bytearray(path.read_bytes())
    for at, value in changes:
        body[at % len(body)] = value
    try:
        for found in parse_rpm(reader(bytes(body)), "/db", FEDORA):
            assert found.name
    except Damaged:
        pass


@given(st.binary(max_size=300))
def test_no_bytes_make_a_header_fail(body: bytes) -> None:
    for blob in (body, struct.pack(">II", 3, len(body)) + body):
        try:
            read_header(blob)
        except Damaged:
            pass
