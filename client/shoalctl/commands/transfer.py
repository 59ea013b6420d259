"""What pull and push share: progress, a result line for each host, and cancelling on Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from shoalctl.commands.outcome import report
from shoalctl.fleet.fleet import Fleet, HostProgress
from shoalctl.fleet.host import new_request_id
from shoalctl.fleet.result import HostResult
from shoalctl.render import console
from shoalctl.render.progress import ProgressBoard

T = TypeVar("T")


async def transfer(
    fleet: Fleet,
    start: Callable[[HostProgress, str], AsyncGenerator[HostResult[T], None]],
    line: Callable[[T], str],
    *,
    quiet: bool,
) -> int:
    """Run a pull or push to its end. `start` gets the progress sink and the request id; `line` words a result."""
    request_id = new_request_id()
    board = ProgressBoard(fleet.names, quiet)

    def progress(host: str, record: Any) -> None:
        board.update(host, record.id, record.phase, record.done_bytes, record.total_bytes)

    results: list[HostResult[T]] = []
    try:
        async with aclosing(start(progress, request_id)) as stream:
            async for result in stream:
                results.append(result)
    except asyncio.CancelledError:
        board.close()
        console.err(f"cancelling on {', '.join(fleet.names)} ...")
        await cancelled(fleet, request_id)
        raise
    board.close()
    order = {name: at for at, name in enumerate(fleet.names)}
    results.sort(key=lambda result: order[result.host])
    width = max(map(len, fleet.names))
    for result in results:
        if result.ok:
            mark = f"{result.host:<{width}} | " if len(order) > 1 else ""
            console.out(mark + line(result.get()))
    return report(results)


async def cancelled(fleet: Fleet, request_id: str) -> None:
    """Tell all hosts to end the operation; whoever does not hear it ends it alone."""
    async with aclosing(fleet.cancel(request_id)) as results:
        async for _ in results:
            pass
