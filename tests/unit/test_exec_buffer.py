"""The output of an exec: order, back pressure, cursors, bounds."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import InvalidArgument, OutOfRange
from shoald.runtime.execbuffer import MAX_PIECES, ExecBuffer


async def _all(buffer: ExecBuffer, cursor: str = "") -> list[tuple[bool, bytes]]:
    return [(piece.stderr, piece.data) async for piece in buffer.read(cursor)]


async def test_pieces_come_in_order_and_a_cursor_resumes_inside_of_one() -> None:
    buffer = ExecBuffer()
    await buffer.put(False, b"abc")
    await buffer.put(True, b"de")
    await buffer.put(False, b"f")
    buffer.close()
    assert await _all(buffer) == [(False, b"abc"), (True, b"de"), (False, b"f")]
    assert await _all(buffer, "1") == [(False, b"bc"), (True, b"de"), (False, b"f")]
    assert await _all(buffer, "6") == []


async def test_a_writer_waits_while_a_window_is_unread() -> None:
    buffer = ExecBuffer(window=4)
    await buffer.put(False, b"abcd")
    waiting = asyncio.create_task(buffer.put(False, b"e"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    reader = buffer.read("")
    assert (await anext(reader)).data == b"abcd"
    assert (await anext(reader)).data == b"e"
    await waiting
    await reader.aclose()


async def test_what_was_given_stays_for_a_window_and_then_expires() -> None:
    buffer = ExecBuffer(window=4)
    reader = buffer.read("")
    for number, text in enumerate((b"abcd", b"efgh", b"ijkl")):
        await buffer.put(number % 2 == 1, text)  # pieces of one stream would be joined
        assert (await anext(reader)).data == text
        # Given once the reader asks for more.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reader), 0.01)
        reader = buffer.read(str(buffer.end))
    with pytest.raises(OutOfRange) as caught:
        await _all(buffer, "")
    assert caught.value.reason == "CURSOR_EXPIRED"
    buffer.close()
    assert b"".join(data for _, data in await _all(buffer, "8")) == b"ijkl"


async def test_two_readers_get_the_same() -> None:
    buffer = ExecBuffer()
    readers = [asyncio.create_task(_all(buffer)) for _ in range(2)]
    await asyncio.sleep(0)
    await buffer.put(False, b"x")
    await asyncio.sleep(0)
    await buffer.put(True, b"y")
    buffer.close()
    assert await asyncio.gather(*readers) == [[(False, b"x"), (True, b"y")]] * 2


async def test_without_a_reader_a_lossy_buffer_keeps_the_last_window_only() -> None:
    buffer = ExecBuffer(window=1 << 16)
    buffer.lose(True)
    for _ in range(100):
        await buffer.put(False, b"z" * (1 << 15))
    assert buffer.size <= 1 << 17


async def test_single_bytes_of_both_streams_in_turn_are_bounded_too() -> None:
    buffer = ExecBuffer()
    count = 0
    while not buffer.full:
        await buffer.put(count % 2 == 0, b"x")
        count += 1
    assert count <= MAX_PIECES + 1


@pytest.mark.parametrize("cursor", ["-1", "x", "1e3", "9" * 30, " 1"])
async def test_bad_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(InvalidArgument):
        await _all(ExecBuffer(), cursor)


async def test_a_cursor_beyond_the_end_is_refused() -> None:
    with pytest.raises(OutOfRange):
        await _all(ExecBuffer(), "5")


async def test_what_a_reader_did_not_confirm_is_kept_and_makes_the_writer_wait() -> None:
    buffer = ExecBuffer(window=4)
    await buffer.put(False, b"abcd")
    reader = buffer.read("", confirms=True)
    assert (await anext(reader)).data == b"abcd"
    waiting = asyncio.create_task(buffer.put(False, b"efgh"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert (await anext(buffer.read("", confirms=True))).data == b"abcd"
    buffer.received("4")
    await waiting
    assert (await anext(reader)).data == b"efgh"
    # A cursor to resume at confirms as well.
    assert (await anext(buffer.read("6", confirms=True))).data == b"gh"
    await buffer.put(False, b"ij")
    with pytest.raises(InvalidArgument):
        buffer.received("x")
    buffer.received("999")
    assert not buffer.full
    await reader.aclose()
