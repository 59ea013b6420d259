"""The course of `shoal stats`: samples of all hosts, shown together, once or live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.commands.container_rows import ID_LENGTH
from shoalctl.fleet import lifecycle
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.render import console
from shoalctl.render.errors import show_error
from shoalctl.render.human import binary_size, cut, size
from shoalctl.render.listing import Listing

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

    Samples = Sequence[container_pb2.ContainerServiceStatsResponse.Sample]

FRAME = 1.0  # s between two tables
_NOTHING = "--"


class Measuring:
    """Follows the hosts. What a host has sent last is shown until it sends again or fails."""

    def __init__(self, fleet: Fleet, names: Sequence[str], listing: Listing, *, everything: bool, full: bool) -> None:
        self._fleet = fleet
        self._names = names
        self._listing = listing
        self._everything = everything
        self._full = full
        self._samples: dict[str, Samples] = {}
        self._idle: dict[str, list[container_pb2.Container]] = {}
        self._failed: dict[str, bool] = dict.fromkeys(fleet.names, False)
        self._drawn = 0

    async def run(self, *, once: bool) -> int:
        """The exit code; without `once` it ends when all hosts have ended, or by Ctrl-C."""
        if once:
            await self._collect(once=True)
            self._listing.show(self._rows())
        else:
            await self._live()
        return exits.combined(self._failed.values())

    async def _live(self) -> None:
        """Draw until all hosts have ended. Raises what ends the drawing, such as a reader that has gone away."""
        drawing = asyncio.create_task(self._draw_again())
        collecting = asyncio.create_task(self._collect(once=False))
        try:
            await asyncio.wait({drawing, collecting}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                await drawing
            await collecting
        finally:
            for task in (drawing, collecting):
                task.cancel()
            await asyncio.gather(drawing, collecting, return_exceptions=True)
        self._draw()

    async def _collect(self, *, once: bool) -> None:
        def samples(host: HostClient) -> AsyncIterator[Samples]:
            return self._host(host, once=once)

        async for result in self._fleet.merged(samples):
            if result.error is None:
                self._samples[result.host] = result.get()
                continue
            self._samples.pop(result.host, None)
            self._failed[result.host] = True
            self._drawn = 0
            show_error(result.error, result.host)

    async def _host(self, host: HostClient, *, once: bool) -> AsyncIterator[Samples]:
        names = self._names
        if names:
            names = await self._known(host)
        if self._everything:
            from shoal.v1 import container_pb2

            listed = await host.containers(container_pb2.ContainerServiceListRequest(all=True))
            self._idle[host.name] = [item for item in listed if not self._names or item.id in names]
        if self._names and not names:
            return
        async with aclosing(lifecycle.stats(host, names, one_shot=once)) as stream:
            async for samples in stream:
                yield samples

    async def _known(self, host: HostClient) -> list[str]:
        """The ids of those that this host has; what it lacks is told, and does not spoil the rest."""
        ids = []
        for name in self._names:
            try:
                ids.append((await host.inspect_container(name)).container.id)
            except ShoalError as error:
                if error.reason != "CONTAINER_NOT_FOUND":
                    raise
                show_error(error, host.name)
                self._failed[host.name] = True
        return ids

    async def _draw_again(self) -> None:
        while True:
            await asyncio.sleep(FRAME / 10 if not self._samples else FRAME)
            if self._samples:
                self._draw()

    def _draw(self) -> None:
        lines = self._listing.lines(self._rows())
        if console.is_terminal():
            room = max(console.height() - 1, 4)
            shown = [cut(line, console.width() - 1) for line in lines[:room]]
            up = f"\x1b[{self._drawn}A" if self._drawn else ""
            picture = f"{up}\r" + "".join(f"\x1b[2K{console.printable(line)}\n" for line in shown) + "\x1b[J"
            console.raw(picture.encode())
            self._drawn = len(shown)
        else:
            for line in lines:
                console.out(line)
        console.flush()

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for host in self._fleet.names:
            samples = sorted(self._samples.get(host, ()), key=lambda sample: sample.name)
            rows += [sample_row(host, sample, full=self._full) for sample in samples]
            measured = {sample.id for sample in samples}
            idle = [item for item in self._idle.get(host, ()) if item.id not in measured]
            rows += [idle_row(host, item, full=self._full) for item in idle]
        return rows


def sample_row(host: str, sample: container_pb2.ContainerServiceStatsResponse.Sample, *, full: bool) -> dict[str, Any]:
    """One container; docker's field names, and the plain figures for programs."""
    limit = sample.memory_limit_bytes
    share = 100 * sample.memory_bytes / limit if limit else 0.0
    return {
        "Host": host,
        "ID": sample.id if full else sample.id[:ID_LENGTH],
        "Container": sample.id if full else sample.id[:ID_LENGTH],
        "Name": sample.name,
        "CPUPerc": f"{100 * sample.cpu_fraction:.2f}%",
        "MemUsage": f"{binary_size(sample.memory_bytes)} / {binary_size(limit)}",
        "MemPerc": f"{share:.2f}%",
        "NetIO": f"{size(sample.network_received_bytes)} / {size(sample.network_sent_bytes)}",
        "BlockIO": f"{size(sample.block_read_bytes)} / {size(sample.block_written_bytes)}",
        "PIDs": str(sample.pids),
        "CPUNs": sample.cpu_ns,
        "MemoryBytes": sample.memory_bytes,
        "MemoryLimitBytes": limit,
        "ThrottledNs": sample.throttled_ns,
    }


def idle_row(host: str, item: container_pb2.Container, *, full: bool) -> dict[str, Any]:
    """One that does not run."""
    identity = item.id if full else item.id[:ID_LENGTH]
    texts = dict.fromkeys(("CPUPerc", "MemPerc"), _NOTHING)
    pairs = dict.fromkeys(("MemUsage", "NetIO", "BlockIO"), f"{_NOTHING} / {_NOTHING}")
    figures = dict.fromkeys(("CPUNs", "MemoryBytes", "MemoryLimitBytes", "ThrottledNs"), 0)
    names = {"Host": host, "ID": identity, "Container": identity, "Name": item.name}
    return {**names, **texts, **pairs, "PIDs": _NOTHING, **figures}
