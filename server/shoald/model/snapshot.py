"""Layers on disk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct, field


class Snapshot(Struct, frozen=True):
    """A directory of one layer: committed (read-only, content of an image) or active (a container's writable layer)."""

    id: str
    """Name of its directory: `<root>/snapshots/<id>/{fs,work}`."""
    parent_id: str | None
    committed: bool
    uid_base: int
    """On-disk owner ids are `uid_base` + the id as the image means it: 0 for unpacked layers, the mapping's base for
    what a container or a RUN step in a user namespace wrote."""
    created_at: datetime
    chain_id: str | None = None
    """Chain id of the image layer, when it is one: unique."""
    diff_id: str | None = None
    size_bytes: int = 0


class Layer(Struct, frozen=True):
    """One lower directory of an overlay mount."""

    path: str
    uid_base: int


class Volume(Struct, frozen=True):
    """A named volume; its files are at `<root>/volumes/<name>/data`, owned by ids as seen in containers."""

    name: str
    created_at: datetime
    anonymous: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    """As given: "type", "device", "o". Empty: a plain directory; else what is mounted there while it is used."""
