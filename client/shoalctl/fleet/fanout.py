"""Many hosts at once: results as they come, one host's failure never the end of the others.

Also a defect of this program is the failure of the host that it came up with. Only OutputFault ends all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar, cast

from shoal.errors import ShoalError
from shoalctl.defect import OutputFault, internal
from shoalctl.fleet.result import HostResult

T = TypeVar("T")

AT_ONCE = 64
"""How many hosts are spoken to at the same time; the others wait their turn."""
_BUFFER = 256


class Named(Protocol):
    """Something with a host's name."""

    @property
    def name(self) -> str:
        """The host's name."""
        ...


N = TypeVar("N", bound=Named)


async def each(hosts: Sequence[N], work: Callable[[N], Awaitable[T]]) -> AsyncGenerator[HostResult[T], None]:
    """One result for each host, in the order in which they finish. Leaving the loop early cancels the rest."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(host: N) -> HostResult[T]:
        async with turns:
            try:
                return HostResult(host.name, await work(host))
            except OutputFault:
                raise
            except Exception as error:  # noqa: BLE001 - the other hosts go on
                return HostResult(host.name, error=_of_host(error))

    tasks = [asyncio.create_task(one(host)) for host in hosts]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        await _ended(tasks)


async def merged(
    hosts: Sequence[N], work: Callable[[N], AsyncIterator[T]], at_once: int | None = None
) -> AsyncGenerator[HostResult[T], None]:
    """The items of all hosts' streams as they come; a stream that fails ends with a result that holds the error.

    A slow reader slows the streams down: nothing is buffered without limit. `at_once` limits the open streams, for
    those that end; None: all are open at the same time.
    """
    turns = asyncio.Semaphore(at_once or max(len(hosts), 1))
    queue: asyncio.Queue[HostResult[T] | BaseException | None] = asyncio.Queue(_BUFFER)

    async def one(host: N) -> None:
        try:
            async with turns, aclosing(cast("AsyncGenerator[T, None]", work(host))) as items:
                async for item in items:
                    await queue.put(HostResult(host.name, item))
        except OutputFault as error:
            await queue.put(error)  # for the reader to raise
        except Exception as error:  # noqa: BLE001 - the other hosts go on
            await queue.put(HostResult(host.name, error=_of_host(error)))
        await queue.put(None)

    tasks = [asyncio.create_task(one(host)) for host in hosts]
    try:
        open_streams = len(tasks)
        while open_streams:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield item
    finally:
        await _ended(tasks)


def _of_host(error: Exception) -> ShoalError:
    return error if isinstance(error, ShoalError) else internal(error)


async def _ended(tasks: Sequence[asyncio.Task[object]] | Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
