"""The composition of the engine: the one place that constructs its parts from the configuration."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from shoal.errors import Unimplemented
from shoald.config import Config
from shoald.engine.ports import Engine
from shoald.model.metrics import EngineMetrics


def build_engine(config: Config, metrics: EngineMetrics) -> AbstractAsyncContextManager[Engine]:
    """The engine, recovered and at work inside the block; leaving it stops the engine, never the containers."""
    raise Unimplemented("the engine is not wired yet")


async def purge(config: Config) -> None:
    """Remove all that a daemon with this configuration left on the host, after it has ended. Idempotent.

    Containers, mounts, network, cgroups, run directory.
    """
    raise Unimplemented("the engine is not wired yet")
