"""Programs: what comes back, what is said when they fail, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import DeadlineExceeded, FailedPrecondition, Internal, NotFound, ResourceExhausted
from shoald.host.process import (
    PIPE,
    process_alive,
    process_start_time,
    run,
    send_signal,
    spawn,
    wait_process,
)


@pytest.fixture(autouse=True)
async def _no_descriptor_leaks() -> AsyncIterator[None]:
    # The first child makes asyncio open what it keeps.
    await run(["true"])
    before = set(os.listdir("/proc/self/fd"))
    yield
    # asyncio closes pipes in later rounds of its loop.
    for _ in range(100):
        if len(os.listdir("/proc/self/fd")) <= len(before):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"descriptors {before} became {set(os.listdir('/proc/self/fd'))}")


async def gone(pid: int) -> bool:
    for _ in range(500):
        start = process_start_time(pid)
        if start is None or not process_alive(pid, start):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_output_input_and_status() -> None:
    completed = await run(["sh", "-c", "cat; echo oops >&2; exit 3"], input=b"x" * 300_000, check=False)
    assert completed.returncode == 3
    assert completed.stdout == b"x" * 300_000
    assert completed.stderr == b"oops\n"


async def test_a_failure_tells_the_program_and_the_end_of_stderr() -> None:
    with pytest.raises(Internal) as caught:
        await run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' 'a' >&2; echo 'the reason' >&2; exit 4"])
    assert caught.value.reason == "PROGRAM_FAILED"
    assert "sh failed (exit status 4)" in str(caught.value)
    assert str(caught.value).endswith("the reason")
    assert len(str(caught.value)) < 3000


async def test_a_signal_is_named() -> None:
    with pytest.raises(Internal, match="killed by SIGKILL"):
        await run(["sh", "-c", "kill -9 $$"])


async def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await run(["/nonexistent/conmon"])
    assert caught.value.reason == "PROGRAM_MISSING"
    assert caught.value.hint == "apt-get install conmon"


async def test_a_missing_working_directory_is_not_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await run(["true"], cwd=tmp_path / "gone")


async def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    with pytest.raises(FailedPrecondition) as caught:
        await run([str(tmp_path / "text")])
    assert caught.value.reason == "PROGRAM_NOT_EXECUTABLE"


async def test_a_flood_of_output_is_cut() -> None:
    with pytest.raises(ResourceExhausted) as caught:
        await run(["sh", "-c", "cat /dev/zero"], input=b"x" * 1_000_000, max_output=1 << 20)
    assert caught.value.reason == "OUTPUT_TOO_LARGE"


async def test_a_timeout_kills_children_too(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(DeadlineExceeded):
        await run(["sh", "-c", script], timeout=0.3)
    assert await gone(int((tmp_path / "pid").read_text()))


async def test_cancellation_kills_and_reaps(tmp_path: Path) -> None:
    task = asyncio.create_task(run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"]))
    for _ in range(1000):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        await asyncio.sleep(0.005)
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process_start_time(pid) is None


@pytest.mark.parametrize("ticks", range(8))
async def test_cancellation_at_any_await_leaves_no_process(ticks: int, tmp_path: Path) -> None:
    marker = f"{os.getpid()}{ticks}77"
    task = asyncio.create_task(run(["sleep", marker]))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            assert command != f"sleep\0{marker}\0".encode()


async def test_a_daemon_that_keeps_the_pipes_does_not_hold_us() -> None:
    completed = await run(["sh", "-c", "sleep 1000 & echo $!"], timeout=60)
    pid = int(completed.stdout)
    start = process_start_time(pid)
    assert start is not None
    # It outlives `run` on purpose (a monitor does so), and this also ends what the test started.
    assert send_signal(pid, start, 9)
    await wait_process(pid, start)
    assert not process_alive(pid, start)


async def test_a_grandchild_that_never_reads_its_input_does_not_hold_us() -> None:
    script = "exec 3<&0; (exec sleep 1000 <&3) >/dev/null 2>&1 & echo $!"
    completed = await run(["sh", "-c", script], input=b"x" * 1_000_000, timeout=60)
    pid = int(completed.stdout)
    start = process_start_time(pid)
    assert start is not None
    assert send_signal(pid, start, 9)
    await wait_process(pid, start)


async def test_the_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("SECRET", "x")
    names = {line.partition(b"=")[0] for line in (await run(["env"])).stdout.splitlines()}
    assert b"PATH" in names
    assert not names & {b"NOTIFY_SOCKET", b"SECRET"}
    assert (await run(["/usr/bin/env"], env={"A": "b"})).stdout == b"A=b\n"


async def test_only_passed_descriptors_reach_a_child() -> None:
    read, write = os.pipe()
    try:
        os.set_inheritable(write, True)
        listed = (await run(["ls", "/proc/self/fd"])).stdout.split()
        assert len(listed) == 4  # 0, 1, 2 and the directory that ls reads
        completed = await run(["sh", "-c", f"echo passed >/proc/self/fd/{write}"], pass_fds=[write])
        assert completed.returncode == 0
        assert os.read(read, 100) == b"passed\n"
    finally:
        os.close(read)
        os.close(write)


async def test_streaming_and_the_end_of_the_block() -> None:
    async with await spawn(["cat"], stdin=PIPE, stdout=PIPE) as cat:
        cat.stdin.write(b"line\n")
        assert await cat.stdout.readline() == b"line\n"
        assert cat.returncode is None
        pid = cat.pid
        assert os.getsid(pid) == pid
    assert cat.returncode == -9
    assert process_start_time(pid) is None
    await cat.aclose()


async def test_children_are_reaped_through_pidfds_as_well() -> None:
    script = """
import asyncio
from shoald.host.process import run, use_pidfd_watcher
async def inside():
    use_pidfd_watcher()
    done = await asyncio.gather(*(run(["sh", "-c", f"exit {n}"], check=False) for n in range(9)))
    print([one.returncode for one in done])
use_pidfd_watcher()
asyncio.run(inside())
asyncio.run(inside())
"""
    completed = await run([sys.executable, "-W", "error", "-c", script])
    assert completed.stdout.decode().splitlines() == [str(list(range(9)))] * 2
