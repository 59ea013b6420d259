"""From an engine's iterator to a stream of messages.

Streaming handlers of this API are coroutines that call `context.write`, which gRPC serves faster and ends more cleanly
than async generators; the generated types know only the latter, hence the `type: ignore[override]` on them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
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
