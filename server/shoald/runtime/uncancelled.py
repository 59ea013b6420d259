"""Work that must reach its end, whatever happens to the task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def uncancelled(work: Coroutine[Any, Any, _T]) -> tuple[_T, bool]:
    """Await `work` to its end; its result, and whether a cancellation arrived meanwhile, for the caller to raise.

    What `work` raises is raised; when a cancellation arrived as well, that is raised instead, with it as the cause.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
        except BaseException:  # noqa: BLE001 -- raised again by result() below
            break
    error = task.exception()
    if error is not None and cancelled:
        raise asyncio.CancelledError from error
    return task.result(), cancelled
