"""Prometheus metrics of the daemon, in a registry of its own."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector

from shoald.engine.ports import ContainerFilter, Engine
from shoald.model.container import ContainerState

CONTENT_TYPE = CONTENT_TYPE_LATEST

_RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_OPERATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """Everything that is counted: an `Observer` of the API's gate and the `EngineMetrics` of the engine."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, and nobody reads them
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("shoald_info", "Version of the daemon.", ["version", "python"], registry=self.registry)
        info.labels(version, platform.python_version()).set(1)
        self._active = Gauge("shoald_rpc_active", "Calls being served.", ["method"], registry=self.registry)
        self._rpcs = Counter("shoald_rpcs", "Calls that ended.", ["method", "code"], registry=self.registry)
        self._rpc_seconds = Histogram(
            "shoald_rpc_seconds", "Time of calls.", ["method"], registry=self.registry, buckets=_RPC_BUCKETS
        )
        self._containers = Gauge("shoald_containers", "Containers by state.", ["state"], registry=self.registry)
        self._images = Gauge("shoald_images", "Images.", registry=self.registry)
        self._tasks = Gauge("shoald_tasks", "Tasks of the event loop.", registry=self.registry)
        self._pulled = Counter("shoald_pulled_bytes", "Bytes from registries.", registry=self.registry)
        self._steps = Counter("shoald_build_steps", "Steps of builds.", ["result"], registry=self.registry)
        self._operation_seconds = Histogram(
            "shoald_operation_seconds",
            "Time of operations.",
            ["kind", "result"],
            registry=self.registry,
            buckets=_OPERATION_BUCKETS,
        )

    def started(self, method: str) -> None:
        """A call begins."""
        self._active.labels(method).inc()

    def finished(self, method: str, code: str, seconds: float) -> None:
        """A call ended with the status code of that name."""
        self._active.labels(method).dec()
        self._rpcs.labels(method, code).inc()
        self._rpc_seconds.labels(method).observe(seconds)

    def pulled(self, bytes_: int) -> None:
        """So many bytes came from a registry."""
        self._pulled.inc(bytes_)

    def build_step(self, *, cached: bool) -> None:
        """A build step ran or came from the cache."""
        self._steps.labels("cached" if cached else "run").inc()

    def operation(self, kind: str, seconds: float, *, failed: bool) -> None:
        """A pull, push, build, run, stop or remove ended."""
        self._operation_seconds.labels(kind, "error" if failed else "ok").observe(seconds)

    async def scrape(self, engine: Engine) -> bytes:
        """The exposition text, with what the engine has at this moment."""
        containers = await engine.list_containers(ContainerFilter(all=True))
        self._count_states(each.state for each in containers)
        self._images.set(len(await engine.list_images()))
        self._tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry)

    def _count_states(self, states: Iterable[ContainerState]) -> None:
        tally = Tally(states)
        for state in ContainerState:
            self._containers.labels(str(state)).set(tally[state])
