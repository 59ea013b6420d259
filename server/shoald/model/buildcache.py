"""What the builder keeps to be quicker the next time."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class CacheKind(StrEnum):
    """Results of steps, directories of `RUN --mount=type=cache`, and contexts."""

    LAYER = "layer"
    MOUNT = "mount"
    CONTEXT = "context"


class CacheRecord(Struct, frozen=True):
    """One thing that is kept. `shared`: an image or container has it too, so that pruning it frees nothing; `in_use`: a
    step works with it now."""

    id: str
    kind: CacheKind
    description: str
    size_bytes: int
    created_at: datetime
    last_used_at: datetime
    use_count: int = 0
    shared: bool = False
    in_use: bool = False


class CachePrune(Struct, frozen=True):
    """What to prune: `everything` also what is shared; `unused_since` only what was last used before; `keep_bytes`
    leaves the most recently used of this size."""

    everything: bool = False
    unused_since: datetime | None = None
    keep_bytes: int = 0


class CachePruned(Struct, frozen=True):
    """What went, and how much space that freed."""

    ids: tuple[str, ...]
    freed_bytes: int
