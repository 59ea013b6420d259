"""The log format and its reader: every byte comes back, from every place."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument, OutOfRange
from shoald.model.log import LogBatch, LogQuery, LogRecord
from shoald.runtime import logfile
from shoald.runtime.log import end_cursor, read_log
from shoald.runtime.logline import parse_records

SECOND = 1_000_000_000
START = 1_767_323_045 * SECOND


def write_as_conmon(data: bytes, *, stderr: bool = False, second: int = 0, read_size: int = 8192) -> bytes:
    """What conmon makes of output: it reads blocks and writes a record a line, P for what ends without a newline."""
    out = bytearray()
    stream = b"stderr" if stderr else b"stdout"
    for start in range(0, len(data), read_size):
        for line in data[start : start + read_size].split(b"\n")[:-1]:
            out += b"2026-01-02T03:04:%02d.000000001+00:00 %s F %s\n" % (5 + second, stream, line)
        if rest := data[start : start + read_size].rpartition(b"\n")[2]:
            out += b"2026-01-02T03:04:%02d.000000001+00:00 %s P %s\n" % (5 + second, stream, rest)
    return bytes(out)


async def read(path: Path, **query: Any) -> list[LogBatch]:
    return [batch async for batch in read_log(path, LogQuery(**query))]


def joined(batches: list[LogBatch], *, stderr: bool | None = None) -> bytes:
    return b"".join(r.data for b in batches for r in b.records if stderr is None or r.stderr == stderr)


chunks = st.lists(
    st.tuples(st.binary(max_size=60) | st.sampled_from([b"\n", b"a\n\n", b"\r\n"]), st.booleans()), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(chunks, st.integers(1, 40), st.integers(120, 300))
def test_every_byte_comes_back(written: list[tuple[bytes, bool]], read_size: int, block: int) -> None:
    data = b"".join(write_as_conmon(part, stderr=stderr, read_size=read_size) for part, stderr in written)
    records = parse_records(data)
    for stream in (False, True):
        expected = b"".join(part for part, stderr in written if stderr is stream)
        assert b"".join(record.data for record in records if record.stderr is stream) == expected
    path = Path(f"/dev/shm/shoal-log-{os.getpid()}")
    path.write_bytes(data)
    whole, logfile.BLOCK = logfile.BLOCK, block
    try:
        batches = asyncio.run(read(path))
        assert [record for batch in batches for record in batch.records] == records
        # From every cursor the rest follows, without gap or duplicate.
        seen: list[LogRecord] = []
        for batch in batches:
            seen += batch.records
            rest = asyncio.run(read(path, cursor=batch.cursor, tail=1, since_ns=START * 2))
            assert seen + [record for later in rest for record in later.records] == records
    finally:
        logfile.BLOCK = whole
        path.unlink()


def test_fields() -> None:
    line = b"2026-01-02T03:04:05.123456789+01:00 stderr P x y\n"
    assert parse_records(line) == [LogRecord(START - 3600 * SECOND + 123_456_789, True, b"x y", True)]
    zulu = b"2026-01-02T03:04:05.000000000Z stdout F \n"
    assert parse_records(zulu) == [LogRecord(START, False, b"\n", False)]


@pytest.mark.parametrize(
    "torn",
    [
        b"garbage\n",
        b"\n",
        b"2026-01-02T03:04:05.1 stdout F x\n",
        b"2026-99-02T03:04:05.000000001+00:00 stdout",
        b"\xff\n",
    ],
)
def test_torn_lines_do_no_harm(torn: bytes) -> None:
    good = write_as_conmon(b"one\n")
    records = parse_records(good + torn + (b"" if torn.endswith(b"\n") else b"\n") + good)
    assert [record.data for record in records if record.time_ns > START] == [b"one\n", b"one\n"]


def test_content_that_looks_like_a_record() -> None:
    inner = write_as_conmon(b"fake\n").rstrip()
    assert [record.data for record in parse_records(write_as_conmon(inner + b"\n"))] == [inner + b"\n"]
    assert parse_records(b"garbage " + inner + b"\n") == []


async def test_unfinished_last_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = write_as_conmon(b"one\n") + write_as_conmon(b"two\n")
    path.write_bytes(whole[:-3])
    first = await read(path)
    assert joined(first) == b"one\n"
    path.write_bytes(whole)
    assert joined(await read(path, cursor=first[-1].cursor)) == b"two\n"


async def test_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(write_as_conmon(b"line %d\n" % n, stderr=n % 10 == 0) for n in range(20_000)))
    for count in (1, 2, 999, 7000, 19_999, 20_000, 30_000):
        lines = joined(await read(path, tail=count)).splitlines()
        assert lines == [b"line %d" % n for n in range(max(0, 20_000 - count), 20_000)]
    assert await read(path, tail=0) == []
    assert joined(await read(path, tail=2, stdout=False)) == b"line 19980\nline 19990\n"
    with path.open("ab") as file:
        file.write(write_as_conmon(b"prompt> "))
    assert joined(await read(path, tail=1)) == b"prompt> "
    assert joined(await read(path, tail=2)) == b"line 19999\nprompt> "


async def test_tail_of_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    long = b"x" * 700_000
    path.write_bytes(write_as_conmon(b"first\n" + long + b"\nlast\n"))
    assert joined(await read(path, tail=2)) == long + b"\nlast\n"


async def test_since_until_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(write_as_conmon(b"%d\n" % n, second=n, stderr=n == 3) for n in range(6)))
    assert joined(await read(path, since_ns=START + 2 * SECOND, until_ns=START + 4 * SECOND)) == b"2\n3\n"
    assert joined(await read(path, stderr=False, since_ns=START + 2 * SECOND)) == b"2\n4\n5\n"
    assert joined(await read(path, stdout=False)) == b"3\n"


async def test_batches_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(write_as_conmon(b"y" * 99 + b"\n", read_size=100) * 10_000)
    batches = await read(path)
    assert len(batches) > 3
    assert all(sum(len(record.data) for record in batch.records) <= 256 << 10 for batch in batches)


async def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "BLOCK", 100)
    path = tmp_path / "log"
    path.write_bytes(write_as_conmon(b"a\n") + b"z" * 1000 + b"\n" + write_as_conmon(b"b\n") + b"z" * 1000)
    assert joined(await read(path)) == b"a\nb\n"


async def test_bad_cursors(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(write_as_conmon(b"a\nb\n"))
    for cursor in ("x", "1", "1:2", "1:2:3:4", "-1:0:0", "::", "g:1:1", "1_0:0:0", "1" * 50 + ":1:1"):
        with pytest.raises(InvalidArgument):
            await read(path, cursor=cursor)
    inode = path.stat().st_ino
    tag = end_cursor(path).rpartition(":")[2]
    size = f"{path.stat().st_size:x}"
    for cursor in (f"{inode:x}:3:{tag}", f"{inode:x}:ffffff:{tag}", f"{inode + 1:x}:0:0", f"{inode:x}:{size}:1"):
        with pytest.raises(OutOfRange):
            await read(path, cursor=cursor)
    assert joined(await read(path, cursor=end_cursor(path))) == b""
    assert joined(await read(path, cursor=f"{inode:x}:0:0")) == b"a\nb\n"


async def test_no_log_yet(tmp_path: Path) -> None:
    assert await read(tmp_path / "log") == []
    assert end_cursor(tmp_path / "log") == ""


async def test_follow_from_before_the_first_byte_to_the_end(tmp_path: Path) -> None:
    path, finished, seen = tmp_path / "log", asyncio.Event(), bytearray()
    expected = b"".join(b"line %d\n" % n for n in range(300))

    async def follow() -> None:
        async for batch in read_log(path, LogQuery(follow=True), finished=finished):
            seen.extend(b"".join(record.data for record in batch.records))

    task = asyncio.ensure_future(follow())
    await asyncio.sleep(0.01)
    (tmp_path / "other").write_bytes(b"noise")
    with path.open("ab", buffering=0) as file:
        for n in range(300):
            data = write_as_conmon(b"line %d\n" % n)
            file.write(data[:20])
            if n % 50 == 0:
                await asyncio.sleep(0.002)
            file.write(data[20:])
    finished.set()
    async with asyncio.timeout(5):
        await task
    assert bytes(seen) == expected


async def test_follow_ends_at_until_and_on_close(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(write_as_conmon(b"a\n"))
    async with asyncio.timeout(5):
        assert joined(await read(path, follow=True, until_ns=START + 10 * SECOND)) == b"a\n"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        stream = read_log(path, LogQuery(follow=True))
        assert joined([await anext(stream)]) == b"a\n"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
    assert len(os.listdir("/proc/self/fd")) <= before
