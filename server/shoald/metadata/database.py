"""The SQLite file: lock, pragmas, transactions, and the translation of its errors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from shoal.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    ShoalError,
    Unavailable,
)
from shoald.metadata.schema import migrate

Value = str | int | float | bytes | None
Row = sqlite3.Row
BUSY_TIMEOUT_S = 5.0
RESERVE_BYTES = 5 << 20
"""Disk space that the write-ahead log has from the start: more than it grows to before SQLite begins it anew."""


class Database:
    """One connection, for one thread, with an exclusive lock on the file for as long as it is open.

    Durability: `synchronous=NORMAL` in WAL mode. A commit survives the death of the daemon at once; a power cut can
    take back the last commits, always a suffix and never a part of one. Whoever destroys what a deleted row named, or
    promises durability, calls `flush` first.
    """

    def __init__(self, path: Path) -> None:
        """Raises FailedPrecondition (ROOT_IN_USE, SCHEMA_TOO_NEW), ResourceExhausted (DISK_FULL), DataLoss."""
        self.path = path
        with contextlib.ExitStack() as undo:
            self._lock = _lock(path.with_name(path.name + ".lock"))
            undo.callback(os.close, self._lock)
            # Root only: specs hold environment variables, and those hold secrets.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with _translated():
                self._connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
                undo.callback(self._connection.close)
                self._connection.row_factory = sqlite3.Row
                for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
                migrate(self._connection)
                self._connection.execute("PRAGMA optimize")
            self._wal = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _reserve(self._wal)
            undo.pop_all()
        self._depth = 0
        self._task: asyncio.Task[object] | None = None

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> sqlite3.Cursor:
        """Run one statement. Raises what `Database` says, and AlreadyExists / FailedPrecondition for a broken
        constraint (UNIQUE_VIOLATED, ROW_IN_USE): repositories check first to give better messages."""
        if self._depth and self._task is not _current_task():
            raise Internal("a metadata transaction was left open across an await", reason="TRANSACTION_ACROSS_AWAIT")
        with _translated():
            return self._connection.execute(sql, parameters)

    def one(self, sql: str, parameters: Sequence[Value] = ()) -> sqlite3.Row | None:
        """The first row, or None."""
        row: sqlite3.Row | None = self.execute(sql, parameters).fetchone()
        return row

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """All rows."""
        return self.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all or none. Re-entrant: an inner block that fails undoes only itself. Never await inside."""
        level = self._depth
        self.execute(f"SAVEPOINT level{level:d}" if level else "BEGIN IMMEDIATE")
        if level == 0:
            self._task = _current_task()
        self._depth = level + 1
        try:
            yield
            self.execute(f"RELEASE level{level:d}" if level else "COMMIT")
        except BaseException:
            self._undo(level)
            raise
        finally:
            self._depth = level

    def _undo(self, level: int) -> None:
        # A full disk may have ended the transaction already.
        if self._connection.in_transaction:
            with _translated():
                if level:
                    self._connection.execute(f"ROLLBACK TO level{level:d}")
                self._connection.execute(f"RELEASE level{level:d}" if level else "ROLLBACK")

    def flush(self) -> None:
        """Make all commits so far durable against a power cut. From any thread; blocks for one fdatasync (ms)."""
        with _translated():
            os.fdatasync(self._wal)

    def close(self) -> None:
        """Checkpoint, close and unlock."""
        os.close(self._wal)
        try:
            with _translated():
                self._connection.close()
        finally:
            os.close(self._lock)


def _reserve(wal: int) -> None:
    """Space in advance: on a full disk rows must still go, or nothing could be freed. Zeros are no frames to SQLite."""
    with contextlib.suppress(OSError):
        os.posix_fallocate(wal, 0, RESERVE_BYTES)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _lock(path: Path) -> int:
    """Take the lock file, or say who has it. flock dies with its owner, also on kill -9."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise FailedPrecondition(
            f"another shoald (pid {pid or 'unknown'}) uses {path.parent}",
            reason="ROOT_IN_USE",
            hint="stop it, or give this one another root directory",
            metadata={"pid": pid, "path": str(path.parent)},
        ) from None
    except OSError as error:
        os.close(fd)
        raise _os_failure(error) from error
    return fd


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _failure(error) from error
    except OSError as error:
        raise _os_failure(error) from error


def _os_failure(error: OSError) -> ShoalError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted("no space left for the state of this host", reason="DISK_FULL", hint=_FREE_SPACE)
    return Internal(f"can't use the state of this host: {error}", reason="METADATA_IO")


_FREE_SPACE = "free some space: remove images or containers that are no longer needed"


def _failure(error: sqlite3.Error) -> ShoalError:
    code = getattr(error, "sqlite_errorcode", 0) or 0
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return ResourceExhausted("no space left for the state of this host", reason="DISK_FULL", hint=_FREE_SPACE)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"the state of this host is locked: {error}", reason="METADATA_BUSY")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DataLoss(f"the state of this host is damaged: {error}", reason="METADATA_CORRUPT")
        case sqlite3.SQLITE_CONSTRAINT:
            if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY or code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
                return FailedPrecondition(f"still in use, or names what does not exist: {error}", reason="ROW_IN_USE")
            if code in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY):
                return AlreadyExists(f"exists already: {error}", reason="UNIQUE_VIOLATED")
            return Internal(f"the state of this host refused a value: {error}", reason="METADATA_CONSTRAINT")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return FailedPrecondition(f"can't write the state of this host: {error}", reason="METADATA_READ_ONLY")
        case _:
            return Internal(f"the state of this host: {error}", reason="METADATA_IO")
