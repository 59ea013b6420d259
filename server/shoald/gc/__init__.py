"""Garbage collection: mark what is needed, sweep the rest."""

from __future__ import annotations

from shoald.gc.collect import Collected, collect
from shoald.gc.mark import mark

__all__ = ["Collected", "collect", "mark"]
