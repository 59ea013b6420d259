"""Work that must reach its end although the task that waits for it may be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, however often the caller is cancelled, and only then raise the cancellation.

    An error of `work` beats the cancellation, so that nothing is swallowed.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.result()
        raise


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread, to its end: what it uses can safely be closed when this returns or raises."""
    return await to_end(asyncio.to_thread(work))
