"""What the engine counts; the daemon's metrics listen, tests may not."""

from __future__ import annotations

from typing import Protocol


class EngineMetrics(Protocol):
    """Callbacks of the engine. None of them blocks or raises."""

    def pulled(self, bytes_: int) -> None:
        """So many bytes came from a registry."""

    def build_step(self, *, cached: bool) -> None:
        """A build step ran or came from the cache."""

    def operation(self, kind: str, seconds: float, *, failed: bool) -> None:
        """A pull, push, build, run, stop or remove ended. `kind` is one of few fixed words."""


class NoMetrics:
    """Counts nothing."""

    def pulled(self, bytes_: int) -> None:
        """Ignored."""

    def build_step(self, *, cached: bool) -> None:
        """Ignored."""

    def operation(self, kind: str, seconds: float, *, failed: bool) -> None:
        """Ignored."""
