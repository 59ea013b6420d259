"""The daemon's only truth: one SQLite database, `<root>/meta.db`, and typed repositories over it."""

from __future__ import annotations

from shoald.metadata.cache import CacheEntry
from shoald.metadata.leases import HoldKind
from shoald.metadata.store import Metadata

__all__ = ["CacheEntry", "HoldKind", "Metadata"]
