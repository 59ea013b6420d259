"""The SQLite file: lock, schema, transactions, errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, DataLoss, FailedPrecondition, Internal, NotFound, ResourceExhausted
from shoald.host import mounts
from shoald.metadata import Metadata
from shoald.metadata.schema import MIGRATIONS, migrate, statements
from tests.support.records import container, image, snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.db"


@pytest.fixture
def md(path: Path) -> Iterator[Metadata]:
    with Metadata.open(path) as opened:
        yield opened


def test_one_daemon_a_root(path: Path) -> None:
    with Metadata.open(path):
        with pytest.raises(FailedPrecondition) as caught:
            Metadata.open(path)
        assert caught.value.reason == "ROOT_IN_USE"
        assert f"pid {os.getpid()}" in str(caught.value)
    Metadata.open(path).close()


HOLDER = """
import sys, time
from shoald.metadata import Metadata
md = Metadata.open(sys.argv[1])
md.meta.set("k", "v")
lease = md.leases.create("pull")
print(lease, flush=True)
time.sleep(60)
"""


def test_the_lock_and_the_leases_die_with_a_killed_daemon_but_rows_do_not(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        lease = other.stdout.readline().strip()
        with pytest.raises(FailedPrecondition) as caught:
            Metadata.open(path)
        assert caught.value.metadata["pid"] == str(other.pid)
        other.send_signal(signal.SIGKILL)
    with Metadata.open(path) as md:
        assert md.meta.get("k") == "v"
        with pytest.raises(NotFound):
            md.leases.hold(lease, "blob", "x")


def test_a_failed_open_leaves_no_lock_and_no_descriptor(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DataLoss) as caught:
            Metadata.open(path)
        assert caught.value.reason == "METADATA_CORRUPT"
    assert len(os.listdir("/proc/self/fd")) <= before


def test_files_are_private(md: Metadata, path: Path) -> None:
    md.meta.set("k", "v")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_the_host_id_stays(path: Path) -> None:
    with Metadata.open(path) as md:
        host_id = md.meta.host_id
    assert len(host_id) == 32
    with Metadata.open(path) as md:
        assert md.meta.host_id == host_id


def test_pragmas(md: Metadata) -> None:
    connection = md._db._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1
    assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    strict = {row["name"]: row["strict"] for row in connection.execute("PRAGMA table_list") if row["schema"] == "main"}
    strict = {name: flag for name, flag in strict.items() if not name.startswith("sqlite_")}
    assert len(strict) > 10
    assert all(strict.values()), strict


def test_a_newer_schema_is_refused(path: Path) -> None:
    Metadata.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(FailedPrecondition) as caught:
        Metadata.open(path)
    assert caught.value.reason == "SCHEMA_TOO_NEW"


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_old_schema_migrates_to_the_newest(path: Path, tmp_path: Path, version: int) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, MIGRATIONS[:version])
    assert old.execute("PRAGMA user_version").fetchone()[0] == version
    old.close()
    with Metadata.open(path) as md, Metadata.open(tmp_path / "fresh.db") as fresh:
        sql = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
        upgraded = [tuple(row) for row in md._db.rows(sql)]
        assert upgraded == [tuple(row) for row in fresh._db.rows(sql)]
        assert md._db.rows("PRAGMA foreign_key_check") == []
        assert md._db.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_migrations_go_step_by_step_and_a_failed_one_leaves_the_step_before(path: Path) -> None:
    first = "CREATE TABLE a (x TEXT) STRICT; CREATE TABLE b (x TEXT) STRICT;"
    good = "ALTER TABLE a ADD COLUMN y TEXT;\nINSERT INTO a VALUES ('1', 'semi;colon');"
    bad = "CREATE TABLE c (x TEXT) STRICT; CREATE TABLE c (x TEXT) STRICT;"
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [first.replace("; ", ";\n"), good, bad.replace("; ", ";\n")])
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
    assert connection.execute("SELECT * FROM a").fetchall() == [("1", "semi;colon")]
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'c'").fetchone()[0] == 0
    connection.close()


def test_a_cut_off_script_is_refused() -> None:
    with pytest.raises(ValueError, match="incomplete"):
        list(statements("CREATE TABLE a (x TEXT);\nCREATE TABLE b ("))


def fail_after(key: str, md: Metadata) -> None:
    with md.transaction():
        with md.transaction():
            md.meta.set(key, "1")
        raise ZeroDivisionError


def test_transactions_nest(md: Metadata) -> None:
    with md.transaction():
        md.meta.set("outer", "1")
        with pytest.raises(ZeroDivisionError):
            fail_after("inner", md)
        with md.transaction():
            md.meta.set("second", "1")
    assert (md.meta.get("outer"), md.meta.get("inner"), md.meta.get("second")) == ("1", None, "1")


def test_an_outer_failure_undoes_all(md: Metadata) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after("k", md)
    assert md.meta.get("k") is None
    md.meta.set("k", "2")
    assert md.meta.get("k") == "2"


async def test_an_await_inside_a_transaction_is_told(md: Metadata) -> None:
    async def other() -> None:
        md.meta.set("k", "other")

    with md.transaction():
        with pytest.raises(Internal) as caught:
            await asyncio.create_task(other())
        md.meta.set("k", "mine")
    assert caught.value.reason == "TRANSACTION_ACROSS_AWAIT"
    assert md.meta.get("k") == "mine"


def test_broken_constraints(md: Metadata) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        md.cache.put("k", "no such snapshot")
    assert caught.value.reason == "ROW_IN_USE"
    md.snapshots.insert(snapshot("a", chain_id="c"))
    with pytest.raises(AlreadyExists):
        md.snapshots.insert(snapshot("b", chain_id="c"))


def test_a_row_that_cannot_be_read_is_named(md: Metadata) -> None:
    md.containers.insert(container())
    md._db.execute("UPDATE containers SET record = json_set(record, '$.state', 'flying')")
    with pytest.raises(DataLoss) as caught:
        md.containers.get(container().id)
    assert caught.value.reason == "METADATA_CORRUPT"


def test_flush_works_from_a_thread(md: Metadata, path: Path) -> None:
    for _ in range(3):
        md.meta.set("k", "v")
        md._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    md.meta.set("k", "w")
    wal = path.with_name("meta.db-wal").stat()
    assert os.fstat(md._db._wal).st_ino == wal.st_ino
    assert wal.st_size > 0
    failed: list[BaseException] = []

    def flush() -> None:
        try:
            md.flush()
        except BaseException as error:  # noqa: BLE001 -- told to the test
            failed.append(error)

    thread = threading.Thread(target=flush)
    thread.start()
    thread.join()
    assert failed == []


def test_a_copy_of_database_and_log_has_every_commit(md: Metadata, path: Path, tmp_path: Path) -> None:
    """What a killed daemon leaves: each commit is in the files when the call returns."""
    md.images.put(image(), ["sha256:layer"])
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (path, path.with_name("meta.db-wal")):
        (copy / file.name).write_bytes(file.read_bytes())
    with Metadata.open(copy / "meta.db") as other:
        assert other.images.list() == [image()]


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.mount("shoal-test", disk, "tmpfs", data="size=1m")
    try:
        with Metadata.open(disk / "meta.db") as md:
            md.meta.set("k", "before")

            def fill() -> None:
                for number in range(10_000):
                    with md.transaction():
                        md.meta.set(f"{number}", "x" * 10_000)

            with pytest.raises(ResourceExhausted) as caught:
                fill()
            assert caught.value.reason == "DISK_FULL"
            assert md.meta.get("k") == "before"
            subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
            md.meta.set("k", "after")
            assert md.meta.get("k") == "after"
            assert md._db.rows("PRAGMA integrity_check")[0][0] == "ok"
    finally:
        mounts.unmount_tree(disk, detach=True)
