"""From an engine's iterator to a stream of messages.

Streaming handlers of this API are coroutines that call `context.write`, which gRPC serves faster and ends more cleanly
than async generators; the generated types know only the latter, hence the `type: ignore[override]` on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc

T = TypeVar("T")

Context = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """The iterator, closed at the end of the block also when it was not read to its end."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def send_all(context: Context, items: AsyncIterator[T], encode: Callable[[T], Any]) -> None:
    """Write every item; `write` waits for a slow client, and so does the engine behind it."""
    async with closing(items) as open_items:
        async for item in open_items:
            await context.write(encode(item))


async def until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run them until one ends; end the others, wait for them, and raise what the first one raised.

    Of two that end at the same moment the earlier in the list counts: an exit that comes first beats a half-close.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()
            return
