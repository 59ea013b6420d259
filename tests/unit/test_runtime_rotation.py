"""Logs in several files: cursors, tails, followers across rotations, and when a log is rotated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument, OutOfRange
from shoald.containers.ghosts import Ghosts
from shoald.containers.logging import check_log, expand_tag, rotation_of
from shoald.model.container import LogConfig
from shoald.model.log import Grep, LogBatch, LogQuery, LogRecord
from shoald.runtime import logchain, logfile, rotation
from shoald.runtime.log import end_cursor, read_log
from shoald.runtime.logline import parse_records
from shoald.runtime.rotation import LogRotator, Rotation
from tests.support.runtime_records import container_record

SECOND = 1_000_000_000
START = 1_767_323_045 * SECOND


def line(text: bytes, *, second: int = 0, number: int = 1, stderr: bool = False, partial: bool = False) -> bytes:
    """A record as conmon writes it."""
    stream, kind = b"stderr" if stderr else b"stdout", b"P" if partial else b"F"
    return b"2026-01-02T03:04:%02d.%09d+00:00 %s %s %s\n" % (5 + second, number, stream, kind, text)


def write_chain(path: Path, files: list[bytes]) -> None:
    """The oldest first; the last is the one that is written."""
    for number, data in enumerate(files[:-1], 1):
        logchain.rotated_path(path, number).write_bytes(data)
    if files:
        path.write_bytes(files[-1])


async def read(path: Path, **query: Any) -> list[LogBatch]:
    return [batch async for batch in read_log(path, LogQuery(**query))]


def texts(batches: list[LogBatch]) -> bytes:
    return b"".join(record.data for batch in batches for record in batch.records)


@contextlib.contextmanager
def small_blocks(size: int) -> Iterator[None]:
    whole, logfile.BLOCK = logfile.BLOCK, size
    try:
        yield
    finally:
        logfile.BLOCK = whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(120, 500), st.data())
def test_a_chain_reads_as_one_log(counts: list[int], block: int, data: st.DataObject) -> None:
    number = 0
    files = []
    for count in counts:
        files.append(b"".join(line(b"%d" % (number + n), number=number + n + 1) for n in range(count)))
        number += count
    whole = parse_records(b"".join(files))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, small_blocks(block):
        path = Path(directory) / "log"
        write_chain(path, files)
        batches = asyncio.run(read(path))
        assert [r for b in batches for r in b.records] == whole
        raw = asyncio.run(read(path, raw=True))
        assert parse_records(b"".join(b.raw for b in raw)) == whole
        seen: list[LogRecord] = []
        for batch in batches:
            seen += batch.records
            rest = asyncio.run(read(path, cursor=batch.cursor))
            assert seen + [r for b in rest for r in b.records] == whole
        tail = data.draw(st.integers(0, number + 2))
        assert [r for b in asyncio.run(read(path, tail=tail)) for r in b.records] == whole[max(0, number - tail) :]
        since = data.draw(st.integers(1, number + 2))
        wanted = [r for r in whole if r.time_ns >= START + since]
        assert [r for b in asyncio.run(read(path, since_ns=START + since)) for r in b.records] == wanted
        assert asyncio.run(read(path, cursor=end_cursor(path))) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["write", "write", "rename", "reopen", "let read"]), max_size=40), st.booleans())
def test_a_follower_sees_each_line_once_across_rotations(steps: list[str], resumed: bool) -> None:
    """As conmon and a rotation do it: rename, writes that still go to the old file, then a new file by rename."""

    async def play(path: Path) -> None:
        finished, cursor = asyncio.Event(), ""
        seen: list[bytes] = []

        async def follow() -> None:
            nonlocal cursor
            async for batch in read_log(path, LogQuery(follow=True, cursor=cursor), finished=finished):
                seen.extend(record.data for record in batch.records)
                cursor = batch.cursor

        task = asyncio.ensure_future(follow())
        file = path.open("ab", buffering=0)
        written, renamed = 0, 0
        for step in steps:
            if step == "write":
                file.write(line(b"%d" % written, number=written + 1))
                written += 1
            elif step == "rename" and path.exists():
                renamed += 1
                os.rename(path, logchain.rotated_path(path, renamed))
            elif step == "reopen" and not path.exists():
                file.close()
                new = path.with_name("log.tmp")
                file = new.open("wb", buffering=0)
                os.rename(new, path)
            elif step == "let read":
                await asyncio.sleep(0.003)
                if resumed:  # the link is cut, and taken up at the cursor
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    task = asyncio.ensure_future(follow())
        file.close()
        finished.set()
        async with asyncio.timeout(10):
            await task
        assert seen == [b"%d\n" % n for n in range(written)]

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(play(Path(directory) / "log"))


async def test_a_place_that_was_dropped_is_expired(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_chain(path, [line(b"a"), line(b"b", number=2), line(b"c", number=3)])
    first = (await read(path))[0]
    oldest = logchain.rotated_path(path, 1)
    content = oldest.read_bytes()
    oldest.unlink()
    with pytest.raises(OutOfRange):
        await read(path, cursor=first.cursor)
    assert texts(await read(path)) == b"b\nc\n"
    # A file that was given the same inode is another file all the same.
    write_chain(path, [content.replace(b".000000001", b".000000009")])
    _, offset, tag = first.cursor.split(":")
    with pytest.raises(OutOfRange):
        await read(path, cursor=f"{path.stat().st_ino:x}:{offset}:{tag}")


async def test_a_reader_that_is_overtaken_is_told_after_what_it_had_begun(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_chain(path, [line(b"a"), line(b"b"), line(b"c"), line(b"d"), line(b"e")])
    seen = b""
    stream = read_log(path, LogQuery(follow=True))
    for _ in range(2):
        seen += texts([await anext(stream)])
        for number in (1, 2, 3):
            logchain.rotated_path(path, number).unlink(missing_ok=True)
    with pytest.raises(OutOfRange, match="faster"):
        await anext(stream)
    assert seen == b"a\nb\n"  # b was open already


async def test_a_removed_containers_log_moves_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "container" / "log"
    path.parent.mkdir()
    write_chain(path, [line(b"a"), line(b"b", number=2), line(b"c", number=3)])
    ghosts = Ghosts(tmp_path / "ghosts")
    container = container_record()
    cursor = (await read(path))[0].cursor
    ghosts.remember(container, path)
    assert not list(path.parent.iterdir())
    moved = ghosts.log_path(container.id)
    assert texts(await read(moved)) == b"a\nb\nc\n"
    assert texts(await read(moved, cursor=cursor)) == b"b\nc\n"


# --- grep -------------------------------------------------------------------------------------------------------------


async def grepped(path: Path, pattern: str, **options: bool) -> bytes:
    return texts(await read(path, grep=Grep(pattern, **options)))


async def test_grep(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(line(text) for text in (b"GET /", b"error: x", b"Error: y", b"\xff error")))
    assert await grepped(path, "error") == b"error: x\n\xff error\n"
    assert await grepped(path, "error", ignore_case=True) == b"error: x\nError: y\n\xff error\n"
    assert await grepped(path, "error", invert=True) == b"GET /\nError: y\n"
    assert await grepped(path, "^(GET|Err)", regex=True) == b"GET /\nError: y\n"
    assert await grepped(path, "x$", regex=True) == b"error: x\n"
    assert await grepped(path, "a.b") == b""
    for bad in ("(", "(?=x)", r"(a)\1", "a" * 5000):
        with pytest.raises(InvalidArgument):
            await grepped(path, bad, regex=True)


async def test_a_hostile_pattern_costs_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(b"a" * 8000, partial=True) * 8 + line(b"!"))
    async with asyncio.timeout(20):
        assert await grepped(path, "^(a+)+$", regex=True) == b""
        assert await grepped(path, "(a|aa|a*)*b", regex=True) == b""


async def test_a_line_in_parts_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    parts = line(b"ne", partial=True) + line(b"other", stderr=True) + line(b"edle", partial=True) + line(b" end")
    path.write_bytes(line(b"before") + parts + line(b"after"))
    batches = await read(path, grep=Grep("needle"))
    assert texts(batches) == b"needle end\n"
    assert texts(await read(path, grep=Grep("other"))) == b"other\n"
    with small_blocks(100):
        whole = [r for b in await read(path, grep=Grep("e")) for r in b.records]
        seen: list[LogRecord] = []
        for batch in await read(path, grep=Grep("e")):
            seen += batch.records
            rest = await read(path, grep=Grep("e"), cursor=batch.cursor)
            assert seen + [r for b in rest for r in b.records] == whole


async def test_following_with_grep_an_unfinished_line_is_decided_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(b"login: ", partial=True))
    stream = read_log(path, LogQuery(follow=True, grep=Grep("login")))
    async with asyncio.timeout(10):
        assert texts([await anext(stream)]) == b"login: "
        with path.open("ab") as file:
            file.write(line(b"root") + line(b"other"))
        assert texts([await anext(stream)]) == b"root\n"
    await stream.aclose()


# --- rotation ---------------------------------------------------------------------------------------------------------


class Writer:
    """A monitor: writes to its file, whatever its name is by now, until it is asked for a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("ab", buffering=0)
        self.written = 0
        self.asked = 0

    def close(self) -> None:
        self.file.close()

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self.file.write(line(b"%d" % self.written + b"x" * 50, number=self.written))
            self.written += 1

    async def reopen(self, _container_id: str) -> bool:
        self.asked += 1
        self.write(2)  # still to the old one
        await asyncio.sleep(0.005)
        self.file.close()
        new = self.path.with_name("log.tmp")
        self.file = new.open("wb", buffering=0)
        os.rename(new, self.path)
        return True


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with contextlib.closing(Writer(tmp_path / "log")) as made:
        yield made


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_log_is_rotated_and_the_oldest_goes(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "log"
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(4096, 3))
    rotator._watched["c"].young_until = 0
    for _ in range(6):
        asked = writer.asked
        await asyncio.sleep(0.03)  # it may have gone to sleep meanwhile
        writer.write(60)
        await until(lambda asked=asked: writer.asked > asked and path.exists())
    await until(lambda: len(logchain.rotated(path)) == 2)
    got = texts(await read(path)).splitlines()
    first = int(got[0].rstrip(b"x"))
    assert [int(each.rstrip(b"x")) for each in got] == list(range(first, writer.written))
    assert [number for number, _ in logchain.rotated(path)] == [writer.asked - 1, writer.asked]
    await rotator.close()
    assert not rotator._watched


async def test_an_idle_log_is_not_looked_at(tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(4096, 3))
    await until(lambda: rotator._watched["c"].task is None)
    looks: list[Path] = []
    size = rotation._size

    def counted(each: Path) -> int:
        looks.append(each)
        return size(each)

    monkeypatch.setattr(rotation, "_size", counted)
    await asyncio.sleep(0.3)
    assert not looks
    writer.write(1)
    await until(lambda: looks)
    await rotator.close()


async def test_the_next_daemon_completes_a_rotation(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "log"
    writer.write(3)
    os.rename(path, logchain.rotated_path(path, 1))
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(1 << 20, 3))
    await until(path.exists)
    writer.write(1)
    assert len(texts(await read(path)).splitlines()) == writer.written
    await rotator.close()
    # One that had asked, but did not see the answer, must not ask twice.
    late = LogRotator(writer.reopen)
    asked = writer.asked
    os.rename(path, logchain.rotated_path(path, 2))
    late.watch("c", path, Rotation(1 << 20, 3))
    await asyncio.sleep(0.02)
    path.write_bytes(b"")
    await asyncio.sleep(1.2)
    assert writer.asked == asked
    await late.close()


async def test_a_log_waits_for_its_readers(tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "YOUNG_S", 0.0)
    monkeypatch.setattr(rotation, "IN_FLIGHT", 0)
    monkeypatch.setattr(rotation, "CUT_OFF_S", 0.2)
    path = tmp_path / "log"
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(4096, 2))
    at = 1
    with rotator.reading("c", lambda: at):
        for turn in range(1, 5):
            writer.write(60)
            await until(lambda turn=turn: writer.asked == turn and path.exists())
        assert [number for number, _ in logchain.rotated(path)] == [1, 2, 3, 4]
        at = 3
        writer.write(60)
        await until(lambda: writer.asked == 5 and path.exists())
        await until(lambda: [number for number, _ in logchain.rotated(path)] == [3, 4, 5])
    writer.write(60)
    await until(lambda: [number for number, _ in logchain.rotated(path)] == [6])
    # Within limits: a stalled reader does not fill the disk.
    monkeypatch.setattr(rotation, "UNREAD_MOST", 8000)
    with rotator.reading("c", lambda: 1):
        for turn in range(7, 15):
            writer.write(60)
            await until(lambda turn=turn: writer.asked == turn and path.exists())
        await asyncio.sleep(0.05)
        assert len(logchain.rotated(path)) < 6
    await rotator.close()


async def test_a_reader_that_was_cut_off_finds_its_place_again(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "IN_FLIGHT", 0)
    monkeypatch.setattr(rotation, "CUT_OFF_S", 0.5)
    path = tmp_path / "log"
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(4096, 2))

    async def reader() -> None:
        with rotator.reading("c", lambda: 1):
            await asyncio.sleep(60)

    reading = asyncio.create_task(reader())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    for turn in range(1, 5):
        writer.write(60)
        await until(lambda turn=turn: writer.asked == turn and path.exists())
    assert logchain.rotated(path)[0][0] == 1
    await until(lambda: not rotator._readers)
    writer.write(60)
    await until(lambda: len(logchain.rotated(path)) == 1)
    await rotator.close()


async def test_a_young_run_is_kept_whole_for_who_is_about_to_attach(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "IN_FLIGHT", 0)
    path = tmp_path / "log"
    rotator = LogRotator(writer.reopen)
    rotator.watch("c", path, Rotation(4096, 2))
    for turn in range(1, 5):
        writer.write(60)
        await until(lambda turn=turn: writer.asked == turn and path.exists())
    assert len(logchain.rotated(path)) == 4
    with rotator.reading("c", lambda: 5):
        writer.write(60)
        await until(lambda: len(logchain.rotated(path)) == 1)
    await rotator.close()


def test_options() -> None:
    assert rotation_of(LogConfig()) == Rotation(20 << 20, 5)
    assert rotation_of(LogConfig("local", {"max-size": "10m", "max-file": "3"})) == Rotation(10 << 20, 3)
    assert rotation_of(LogConfig("local", {"max-size": "-1"})).max_bytes == 0
    assert rotation_of(LogConfig("local", {"max-size": "64KB"})).max_bytes == 64 << 10
    options = {"max-size": "10m", "max-file": "3"}
    assert rotation_of(LogConfig("json-file", options)) == rotation_of(LogConfig("local", options))
    assert rotation_of(LogConfig("json-file")) == rotation_of(LogConfig("local"))
    check_log(LogConfig("json-file", options))
    assert rotation_of(LogConfig("none")).max_bytes == 1 << 20
    check_log(LogConfig("journald", {"tag": "x", "labels": "a,b"}))
    check_log(LogConfig("journald", {"tag": "{{.ImageName}}/{{ .Name }}/{{.ID}}"}))


def test_words_of_a_tag() -> None:
    values = {"Name": "web", "ID": "{{.Name}}"}
    assert expand_tag("a {{.Name}}/{{ .ID }} {x}", values) == "a web/{{.Name}} {x}"
    for tag in ("{{.Nam}}", "{{", "{{Name}}", "{{.Name | upper}}"):
        with pytest.raises(InvalidArgument):
            expand_tag(tag, values)


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("journald", {"tag": "{{.ExtraAttributes}}"}),
        ("syslog", {}),
        ("json-file", {"max-size": "1k"}),
        ("json-file", {"max-file": "0"}),
        ("json-file", {"tag": "x"}),
        ("none", {"max-size": "1m"}),
        ("local", {"tag": "x"}),
        ("local", {"max-size": "0"}),
        ("local", {"max-size": "1"}),
        ("local", {"max-size": "10x"}),
        ("local", {"max-size": "-2"}),
        ("local", {"max-file": "0"}),
        ("local", {"max-file": "²"}),
        ("local", {"max-file": "9999999999999"}),
        ("local", {"labels": "a\0b"}),
    ],
)
def test_bad_options(driver: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        check_log(LogConfig(driver, options))
