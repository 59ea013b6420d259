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
    """Records and the cursor that resumes after the last of them.

    `raw` instead of `records`, for a reader who takes it: whole lines of the log as they are (runtime.logline).
    """

    records: tuple[LogRecord, ...]
    cursor: str
    raw: bytes = b""


class Grep(Struct, frozen=True):
    """Which lines are wanted: those that hold `pattern`, a regular expression (RE2's) where `regex`."""

    pattern: str
    regex: bool = False
    invert: bool = False
    ignore_case: bool = False


class LogQuery(Struct, frozen=True):
    """What of a log is wanted; see shoal.v1.ContainerServiceLogsRequest. Times in ns since the epoch."""

    follow: bool = False
    tail: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    stdout: bool = True
    stderr: bool = True
    cursor: str = ""
    grep: Grep | None = None
    raw: bool = False
    """The reader takes raw batches; it gets them when no line has to be looked at."""
