"""What is found out about containers that run: usage, processes, changed files."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class StatsSample(Struct, frozen=True):
    """Usage of one container at one moment; sizes in bytes, CPU in ns and as a share of one processor; limits of 0:
    none."""

    id: str
    name: str
    time: datetime
    cpu_ns: int = 0
    cpu_fraction: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    pids: int = 0
    pids_limit: int = 0
    network_received_bytes: int = 0
    network_sent_bytes: int = 0
    block_read_bytes: int = 0
    block_written_bytes: int = 0
    throttled_ns: int = 0


class ProcessTable(Struct, frozen=True):
    """The output of ps(1): one row a process, fields in the order of the titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class ChangeKind(StrEnum):
    """What a writable layer does to a path of the image."""

    MODIFIED = "modified"
    ADDED = "added"
    DELETED = "deleted"


class Change(Struct, frozen=True):
    """One path of a container that differs from its image."""

    kind: ChangeKind
    path: str
