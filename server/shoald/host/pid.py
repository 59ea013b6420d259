"""Processes that are not our children, identified by (pid, start time) so that a reused pid is never mistaken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from shoald.host.syscall import failure, syscall

_PIDFD_GETFD = 438


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in clock ticks since boot) from /proc/PID/stat; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and parentheses: count from the last one (proc(5): 3 is state, 22 starttime).
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[19])


def process_start_time(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot (proc(5), field 22), or None when there is none."""
    stat = _stat(pid)
    return None if stat is None else stat[1]


def process_alive(pid: int, start_time: int) -> bool:
    """True while the process that started at `start_time` runs; False for a zombie or another process with its pid."""
    stat = _stat(pid)
    return stat is not None and stat[1] == start_time and stat[0] not in "ZX"


def pidfd_open(pid: int, start_time: int | None = None) -> int | None:
    """A pidfd (close-on-exec) of the process; None when it is gone or is not the one that started at `start_time`."""
    if pid <= 0:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise failure(f"open process {pid}", error.errno or 0) from error
    if start_time is not None and process_start_time(pid) != start_time:
        os.close(fd)
        return None
    return fd


def send_signal(pid: int, start_time: int, number: int) -> bool:
    """Send a signal to exactly that process; False when it is gone. Never hits a process that reused the pid."""
    fd = pidfd_open(pid, start_time)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise failure(f"send signal {number} to process {pid}", error.errno or 0) from error
    finally:
        os.close(fd)
    return True


def borrow_descriptor(pidfd: int, number: int) -> int:
    """Another process's open file as a descriptor of ours (pidfd_getfd(2)), close-on-exec. Raises OSError."""
    return syscall(_PIDFD_GETFD, pidfd, number, 0)


def signal_session(pid: int, start_time: int, number: int) -> None:
    """Signal the process and all others of its session (see setsid(2)), unless that is our own. Nothing when it is
    gone."""
    fd = pidfd_open(pid, start_time)
    if fd is None:
        return
    try:
        session = _session(pid)
        # While one of them lives nobody else can have the session's number.
        for member in _session_members(session) if session not in (0, os.getsid(0)) else ():
            with contextlib.suppress(ProcessLookupError):
                other = os.pidfd_open(member)
                try:
                    if _session(member) == session:
                        signal.pidfd_send_signal(other, number)
                finally:
                    os.close(other)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def _session_members(session: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _session(int(name)) == session]


def _session(pid: int) -> int:
    """The session of a process (proc(5), field 6); 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[3])


async def wait_process(pid: int, start_time: int) -> None:
    """Return when that process has ended (it need not be a child); at once when it is gone already."""
    fd = pidfd_open(pid, start_time)
    if fd is None:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        loop.remove_reader(fd)
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        with contextlib.suppress(OSError):
            os.close(fd)
