"""Output of containers: records of a log, batches of them, and what a reader wants."""

from __future__ import annotations

from msgspec import Struct


class LogRecord(Struct, frozen=True, gc=False):
    """A line of a log (with its newline) or, where `partial`, a part of one without."""

    time_ns: int
    stderr: bool
    data: bytes
    partial: bool


class LogBatch(Struct, frozen=True):
    """Records and the cursor that resumes after the last of them."""

    records: tuple[LogRecord, ...]
    cursor: str


class LogQuery(Struct, frozen=True):
    """What of a log is wanted; see shoal.v1.ContainerServiceLogsRequest. Times in ns since the epoch."""

    follow: bool = False
    tail: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    stdout: bool = True
    stderr: bool = True
    cursor: str = ""
