"""Work that is awaited to its end."""

from __future__ import annotations

import asyncio

import pytest

from shoald.runtime.uncancelled import uncancelled


async def _work(done: list[int], error: Exception | None = None) -> int:
    for _ in range(5):
        await asyncio.sleep(0)
    done.append(1)
    if error is not None:
        raise error
    return 7


async def test_without_a_cancellation() -> None:
    assert await uncancelled(_work([])) == (7, False)
    with pytest.raises(ValueError, match="no"):
        await uncancelled(_work([], ValueError("no")))


async def test_cancelled_more_than_once() -> None:
    done: list[int] = []
    results: list[tuple[int, bool]] = []

    async def caller() -> None:
        results.append(await uncancelled(_work(done)))

    task = asyncio.ensure_future(caller())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert (done, results) == ([1], [(7, True)])


async def test_a_failure_does_not_swallow_the_cancellation() -> None:
    done: list[int] = []
    task = asyncio.ensure_future(uncancelled(_work(done, ValueError("no"))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert done == [1]
    assert isinstance(caught.value.__cause__, ValueError)
