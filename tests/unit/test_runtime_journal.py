"""What is asked of journalctl, and what its answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.model.log import Grep, LogQuery, LogRecord
from shoald.runtime import journal
from shoald.runtime.journal import arguments, check_journal
from shoald.runtime.loggrep import LineFilter

ID = "c" * 64


def test_arguments() -> None:
    argv = arguments(ID, LogQuery(tail=5, since_ns=1_500_000_000, until_ns=2_000_000_000), follow=False)
    assert argv[0] == "journalctl"
    assert {"--lines=5", "--since=@1.500000", "--until=@2.000000", f"CONTAINER_ID_FULL={ID}"} <= set(argv)
    assert "--follow" not in argv
    resumed = arguments(ID, LogQuery(cursor="j:s=1a;i=2", tail=5, since_ns=1, stderr=False), follow=True)
    assert {"--after-cursor=s=1a;i=2", "--lines=all", "--follow", "PRIORITY=6"} <= set(resumed)
    assert not any(each.startswith("--since") for each in resumed)
    for cursor in ("s=1", "j:", "j:--x", "j:a b", "j:" + "a" * 500):
        with pytest.raises(InvalidArgument):
            arguments(ID, LogQuery(cursor=cursor), follow=False)


def entry(message: str, **fields: str) -> bytes:
    more = "".join(f',"{key}":"{value}"' for key, value in fields.items())
    return f'{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"7","MESSAGE":{message}{more}}}'.encode()


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (entry('"a"', PRIORITY="6"), LogRecord(7000, False, b"a\n", False)),
        (entry('"a\\n"', PRIORITY="3"), LogRecord(7000, True, b"a\n", False)),
        (entry('"a"', CONTAINER_PARTIAL_MESSAGE="true"), LogRecord(7000, False, b"a", True)),
        (entry("[255,10]"), LogRecord(7000, False, b"\xff\n", False)),
        (entry("null"), LogRecord(7000, False, b"\n", False)),
    ],
)
def test_entries(line: bytes, record: LogRecord) -> None:
    assert journal._DECODER.decode(line).record() == record


def test_grep_and_until() -> None:
    entries = [journal._DECODER.decode(entry(text)) for text in ('"one"', '"two"')]
    grep = LineFilter(Grep("two"))
    batch = journal._batch(entries, LogQuery(), grep)
    assert ([record.data for record in batch.records], batch.cursor) == ([b"two\n"], "j:s=1")
    assert journal._batch(entries, LogQuery(until_ns=6999), None).records == ()


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="does not run"):
        check_journal(str(tmp_path / "socket"))


async def test_the_program_is_ended_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo '" + entry('"one"').decode() + "'; exec sleep 100"

    async def read(finished: asyncio.Event) -> AsyncIterator[bytes]:
        async for batch in journal._batches(["sh", "-c", script], LogQuery(follow=True), None, finished):
            yield b"".join(record.data for record in batch.records)

    finished = asyncio.Event()
    async with asyncio.timeout(10):
        stream = read(finished)
        assert await anext(stream) == b"one\n"
        finished.set()
        assert [each async for each in stream] == []
