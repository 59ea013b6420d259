"""Raw batches of logs, and several logs merged by time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import NotFound, ShoalError
from shoal.v1 import container_pb2
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.logging import LogFlags, parse_log
from shoalctl.fleet import merging
from shoalctl.fleet.lines import Batch, Line, raw_lines, raw_pieces, stamp
from shoalctl.fleet.merging import merged_lines

SECOND = 1_000_000_000
START = 1_767_323_045 * SECOND
entries = st.tuples(st.binary(max_size=20).filter(lambda d: b"\n" not in d), st.booleans(), st.booleans())


def raw(text: bytes, stderr: bool, partial: bool) -> bytes:
    return b"2026-01-02T04:04:05.000000007+01:00 std%s %s %s\n" % (
        b"err" if stderr else b"out",
        b"P" if partial else b"F",
        text,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(entries, max_size=20))
def test_raw_batches(written: list[tuple[bytes, bool, bool]]) -> None:
    data = b"".join(raw(*entry) for entry in written)
    assert raw_lines(data) == [
        Line(START + 7, stderr, text if partial else text + b"\n", partial) for text, stderr, partial in written
    ]
    for stream in (False, True):
        joined = b"".join(d for stderr, d in raw_pieces(data) if stderr is stream)
        assert joined == b"".join(line.data for line in raw_lines(data) if line.stderr is stream)
    order = [stderr for stderr, _ in raw_pieces(data)]
    assert len(order) <= 1 or all(a is not b for a, b in itertools.pairwise(order))


def test_stamp() -> None:
    assert stamp(START + 5) == b"2026-01-02T03:04:05.000000005Z"


def batch(*times: int, text: bytes = b"x\n") -> Batch:
    message = container_pb2.ContainerServiceLogsResponse()
    for time in times:
        message.records.add(stream=1, data=text).time.FromNanoseconds(time)
    return Batch(message)


async def of(*batches: Batch, pause: float = 0.0, error: ShoalError | None = None) -> AsyncIterator[Batch]:
    for each in batches:
        yield each
        await asyncio.sleep(pause)
    if error is not None:
        raise error


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 50), max_size=4), max_size=4), max_size=4))
def test_logs_that_end_are_merged_exactly(logs: list[list[list[int]]]) -> None:
    for log in logs:
        flat = sorted(time for times in log for time in times)
        for times in log:
            times[:] = [flat.pop(0) for _ in times]

    async def merge() -> list[tuple[int, int]]:
        sources = [(number, of(*(batch(*times) for times in log))) for number, log in enumerate(logs)]
        return [
            (item.time_ns, key)
            async for key, item in merged_lines(sources, patience=None)
            if not isinstance(item, ShoalError)
        ]

    got = asyncio.run(merge())
    assert sorted(got) == sorted((t, n) for n, log in enumerate(logs) for times in log for t in times)
    assert [time for time, _ in got] == sorted(time for time, _ in got)


async def test_a_silent_log_holds_back_the_others_only_for_a_while() -> None:
    stuck = asyncio.Event()

    async def silent() -> AsyncIterator[Batch]:
        await stuck.wait()
        yield batch(0)

    merged = merged_lines([("a", of(batch(1, 2), batch(3))), ("b", silent())], patience=0.05)
    async with asyncio.timeout(5):
        got = [await anext(merged) for _ in range(3)]
        assert [key for key, _ in got] == ["a"] * 3
        stuck.set()
        assert (await anext(merged))[0] == "b"
    await merged.aclose()


async def test_within_the_window_order_is_right() -> None:
    late = of(batch(2), pause=0.0)

    async def delayed() -> AsyncIterator[Batch]:
        await asyncio.sleep(0.05)
        async for each in late:
            yield each

    merged = merged_lines([("a", of(batch(1, 3), pause=5)), ("b", delayed())], patience=2.0)
    async with asyncio.timeout(5):
        assert [(await anext(merged))[0] for _ in range(3)] == ["a", "b", "a"]
    await merged.aclose()


async def test_a_failing_log_does_not_end_the_others() -> None:
    error = NotFound("gone", reason="X")
    merged = merged_lines([("a", of(batch(5), error=error)), ("b", of(batch(1), batch(9)))], patience=None)
    got = [(key, item if isinstance(item, ShoalError) else item.time_ns) async for key, item in merged]
    assert sorted(got, key=str) == sorted([("b", 1), ("a", 5), ("a", error), ("b", 9)], key=str)


async def test_a_loud_log_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_BUFFER", 10_000)
    made = 0

    async def loud() -> AsyncIterator[Batch]:
        nonlocal made
        while True:
            made += 1
            yield batch(made, text=b"y" * 1000)

    merged = merged_lines([("loud", loud()), ("silent", of(pause=0)), ("stuck", of(batch(0), pause=60))], patience=60.0)
    async with asyncio.timeout(20):
        for taken in range(100):
            await anext(merged)
            assert made < taken + 20
    await merged.aclose()


def test_flags() -> None:
    assert parse_log("", ()) == LogFlags()
    assert parse_log("local", ["max-size=1m", "env=A=B"]) == LogFlags("local", {"max-size": "1m", "env": "A=B"})
    assert parse_log("json-file", ["max-file=3"]) == LogFlags("json-file", {"max-file": "3"})
    for driver, options in (("syslog", ()), ("fluentd", ()), ("", ["x"]), ("", ["=x"])):
        with pytest.raises(UsageFault):
            parse_log(driver, options)
