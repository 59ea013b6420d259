"""A verb for several named things on several hosts: `stop a b`, `rmi x`; a line for each that it did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.fleet.fanout import AT_ONCE
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.invocation import Invocation
from shoalctl.render.errors import show_error
from shoalctl.render.marks import MarkedLines

Work = Callable[[HostClient, str], Awaitable[Sequence[str]]]
Outcome = tuple[str, Sequence[str], ShoalError | None]


async def batch(invocation: Invocation, names: Sequence[str], work: Work) -> int:
    """Do `work` for each name on each host, all hosts and names at once, and print the lines that it returns.

    A host fails when one of its names does. The exit code is that of the hosts together; one host that did some of the
    names and not others is a partial failure too.
    """
    async with invocation.fleet() as fleet:
        return await _batch(fleet, names, work)


async def _batch(fleet: Fleet, names: Sequence[str], work: Work) -> int:
    async def on_host(host: HostClient) -> AsyncIterator[Outcome]:
        import asyncio

        async def one(name: str) -> Outcome:
            try:
                return name, await work(host, name), None
            except ShoalError as error:
                return name, (), error

        await host.link.channel()
        for outcome in await asyncio.gather(*map(one, dict.fromkeys(names))):
            yield outcome

    marks = MarkedLines(fleet.names)
    failed: list[bool] = []
    async for result in fleet.merged(on_host, at_once=AT_ONCE):
        error = result.error
        lines: Sequence[str] = ()
        if error is None:
            _, lines, error = result.get()
        if error is not None:
            show_error(error, result.host)
        for line in lines:
            marks.line(result.host, line)
        failed.append(error is not None)
    return exits.combined(failed)
