"""Use case: usage of running containers, once or again and again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.host.cgroups import Cgroups
from shoald.host.usage import cpu_time_us, read_usage
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState
from shoald.model.insight import StatsSample

FIRST_GAP_S = 0.1
MIN_INTERVAL_S = 0.1
RUNNING = (ContainerState.RUNNING, ContainerState.PAUSED)
CpuTime = tuple[datetime, int]
"""A moment, and the processor time in ns until then."""


class StatsCases:
    """Reads cgroups and network counters; nothing is kept between calls."""

    def __init__(self, md: Metadata, cgroups: Cgroups, cgroup_parent: str) -> None:
        self._md = md
        self._cgroups = cgroups
        self._parent = cgroup_parent.rstrip("/")
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    async def stats(
        self, names: Sequence[str], one_shot: bool, interval_s: float = 1.0
    ) -> AsyncIterator[list[StatsSample]]:
        """Samples of all that are named (of all that run, when none is), each time in one list.

        Containers that are named must exist; one that does not run is left out; it ends when all of them are gone.
        Raises NotFound, InvalidArgument (INVALID_INTERVAL), FailedPrecondition (NOT_RUNNING) when only one is named and
        does not run.
        """
        if interval_s < MIN_INTERVAL_S:
            raise InvalidArgument(f"an interval of {interval_s:g} s is too short", reason="INVALID_INTERVAL")
        ids = [self._md.containers.find(name).id for name in names]
        if len(ids) == 1 and (only := self._md.containers.find(ids[0])).state not in RUNNING:
            raise FailedPrecondition(f"container {only.name} is not running", reason="NOT_RUNNING")
        before = await self._begin(ids)
        await asyncio.sleep(FIRST_GAP_S)
        while not ids or any(self._md.containers.get(each) is not None for each in ids):
            begun = time.monotonic()
            samples = await self._sample(ids, before)
            yield list(samples.values())
            if one_shot:
                return
            before = {each: (sample.time, sample.cpu_ns) for each, sample in samples.items()}
            await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - begun)))

    def _running(self, ids: Sequence[str]) -> list[Container]:
        rows = self._md.containers
        chosen = [c for each in ids if (c := rows.get(each)) is not None] if ids else rows.list()
        return [container for container in chosen if container.state in RUNNING]

    async def _begin(self, ids: Sequence[str]) -> dict[str, CpuTime]:
        """What the first figures are compared with: the cheapest look."""
        running = self._running(ids)

        def look() -> dict[str, CpuTime]:
            return {
                each.id: (datetime.now(UTC), (cpu_time_us(self._cgroups, f"{self._parent}/{each.id}") or 0) * 1000)
                for each in running
            }

        return await asyncio.to_thread(look)

    async def _sample(self, ids: Sequence[str], before: dict[str, CpuTime]) -> dict[str, StatsSample]:
        running = self._running(ids)
        # One thread for all: a hop for each would cost more than the reading.
        return await asyncio.to_thread(
            lambda: {container.id: self._read(container, before.get(container.id)) for container in running}
        )

    def _read(self, container: Container, before: CpuTime | None) -> StatsSample:
        usage = read_usage(self._cgroups, f"{self._parent}/{container.id}")
        now = datetime.now(UTC)
        cpu_ns = (usage.cpu_us or 0) * 1000
        received, sent = network_bytes(container.pid) if _has_network(container) else (0, 0)
        fraction = 0.0
        if before is not None and cpu_ns >= before[1]:
            elapsed_ns = (now - before[0]).total_seconds() * 1e9
            fraction = (cpu_ns - before[1]) / elapsed_ns if elapsed_ns > 0 else 0.0
        return StatsSample(
            id=container.id,
            name=container.name,
            time=now,
            cpu_ns=cpu_ns,
            cpu_fraction=fraction,
            memory_bytes=usage.memory or 0,
            memory_limit_bytes=min(usage.memory_limit or self._memory, self._memory),
            pids=usage.pids or 0,
            pids_limit=usage.pids_limit or 0,
            network_received_bytes=received,
            network_sent_bytes=sent,
            block_read_bytes=usage.read_bytes or 0,
            block_written_bytes=usage.write_bytes or 0,
            throttled_ns=(usage.throttled_us or 0) * 1000,
        )


def _has_network(container: Container) -> bool:
    """Whether the interfaces are its own."""
    return container.spec.network != "host" and not container.spec.network.startswith("container:")


def network_bytes(pid: int) -> tuple[int, int]:
    """(received, sent) of all interfaces but loopback in a process's network namespace (proc(5), net/dev)."""
    try:
        text = Path(f"/proc/{pid}/net/dev").read_text() if pid else ""
    except OSError:
        return 0, 0
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, figures = line.partition(":")
        fields = figures.split()
        if name.strip() != "lo" and len(fields) >= 9:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent
