"""Descriptors that a process's streams go through: reading and writing without blocking the event loop; terminals."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Callable

from shoald.host.pid import borrow_descriptor
from shoald.host.syscall import failure

MAX_SIDE = 1000
"""Rows and columns of a terminal go up to it."""


async def read_some(fd: int, size: int) -> bytes:
    """What is there to read on a non-blocking descriptor; b"" at its end (for a terminal: nobody has it open)."""
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            await _ready(fd, write=False)
        except OSError:
            return b""  # EIO: the other end of the terminal is closed


async def write_all(fd: int, data: bytes, wrote: Callable[[int], None]) -> bool:
    """Write all to a non-blocking descriptor, with back pressure; False when nobody reads it any more.

    `wrote` hears of each part, so that a cancellation leaves no doubt of how much was written.
    """
    view = memoryview(data)
    while view:
        try:
            count = os.write(fd, view)
            wrote(count)
            view = view[count:]
        except BlockingIOError:
            await _ready(fd, write=True)
        except OSError:
            return False
    return True


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _resolver(ready))
    try:
        await ready
    finally:
        remove(fd)


def _resolver(future: asyncio.Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """(our end, the process's end) of a new pseudo-terminal in raw mode: the container's own terminal echoes and edits.

    Our end does not block. Both are close-on-exec and the caller's to close. 0: 24 rows, 80 columns.
    """
    ours, theirs = os.openpty()
    try:
        os.set_blocking(ours, False)
        tty.setraw(theirs)
        set_size(theirs, rows or 24, columns or 80)
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return ours, theirs


def open_pipe(*, to_process: bool) -> tuple[int, int]:
    """(our end, the process's end) of a pipe. Any user of the container may open it again through /dev/stdout.

    Our end does not block. Both are close-on-exec and the caller's to close.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (writing, reading) if to_process else (reading, writing)
    os.set_blocking(ours, False)
    os.fchmod(theirs, 0o666)
    return ours, theirs


def set_size(terminal: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ, within what fits."""
    rows, columns = (max(0, min(value, MAX_SIDE)) for value in (rows, columns))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def set_inner_size(relay: int, rows: int, columns: int) -> None:
    """Set the size of the terminal whose bytes the process `relay` passes on; nothing when it is gone.

    Not left to the runtime: crun 1.8's exec ignores SIGWINCH.
    """
    try:
        pidfd = os.pidfd_open(relay)
    except ProcessLookupError:
        return
    try:
        for name in os.listdir(f"/proc/{relay}/fd"):
            if os.readlink(f"/proc/{relay}/fd/{name}").endswith("/ptmx"):
                terminal = borrow_descriptor(pidfd, int(name))
                try:
                    set_size(terminal, rows, columns)
                finally:
                    os.close(terminal)
    except (FileNotFoundError, ProcessLookupError):
        return
    except OSError as error:
        raise failure("set the terminal's size", error.errno or 0) from error
    finally:
        os.close(pidfd)
