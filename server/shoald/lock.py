"""One daemon a data directory: a lock that ends with its process, and a file that tells which process holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import AlreadyExists, FailedPrecondition

PID_FILE = "shoald.pid"


@contextmanager
def hold(root: Path, run_dir: Path) -> Iterator[None]:
    """Make both directories, lock them, write the pid file. Raises AlreadyExists (ALREADY_RUNNING)."""
    with _lock(root / "shoald.lock", "data directory", root), _lock(run_dir / PID_FILE, "run directory", run_dir) as fd:
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield


def holder(run_dir: Path) -> int | None:
    """The pid of the daemon that runs with this run directory, or None; the lock tells, so never a pid used again."""
    try:
        fd = os.open(run_dir / PID_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


@contextmanager
def _lock(file: Path, what: str, directory: Path) -> Iterator[int]:
    try:
        # 0711: the user namespaces of containers must pass through, and see nothing.
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FailedPrecondition(
            f"can't use the {what} {directory}: {error.strerror}",
            reason="DIRECTORY_UNUSABLE",
            hint="run shoald as root, or name another one with --root and --run-dir",
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(
                f"another shoald uses the {what} {directory}",
                reason="ALREADY_RUNNING",
                hint="stop it, or name other directories with --root and --run-dir",
            ) from None
        yield fd
    finally:
        os.close(fd)
