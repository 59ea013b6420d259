"""Lines of containers' logs as clients handle them: from messages, or from raw batches in the CRI log format.

A raw line is `TIME stdout|stderr F|P DATA`. Its newline belongs to the data after F, and not after P.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


@cache
def _lines() -> re.Pattern[bytes]:
    """Compiled when the first line comes: not every command has any."""
    return re.compile(
        rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})([+-]\d\d:\d\d|Z) std(out|err) ([PF]) (.*\n)", re.MULTILINE
    )


_TIME, _STDOUT = 35, b" stdout F "
_NS = 1_000_000_000


class Line(NamedTuple):
    """A line with its newline or, where `partial`, a part of one without. Time in ns since the epoch."""

    time_ns: int
    stderr: bool
    data: bytes
    partial: bool


class Batch(NamedTuple):
    """What a host sent at once."""

    message: container_pb2.ContainerServiceLogsResponse | container_pb2.ContainerServiceAttachResponse.Output

    def lines(self) -> list[Line]:
        """Each with its time."""
        if self.message.raw:
            return raw_lines(self.message.raw)
        return [
            Line(r.time.seconds * _NS + r.time.nanos, r.stream == r.STREAM_STDERR, r.data, r.partial)
            for r in self.message.records
        ]

    def pieces(self) -> Iterator[tuple[bool, bytes]]:
        """(is standard error, bytes), with neighbours joined: for those who don't ask for times."""
        if self.message.raw:
            yield from raw_pieces(self.message.raw)
            return
        yield from joined((r.stream == r.STREAM_STDERR, r.data) for r in self.message.records)


def raw_pieces(raw: bytes) -> Iterator[tuple[bool, bytes]]:
    """As `Batch.pieces`. Whole lines of standard output, which most are, cost next to nothing."""
    rows = raw.split(b"\n")
    begin = _TIME + len(_STDOUT)
    plain = [row[begin:] for row in rows if row[_TIME:begin] == _STDOUT]
    if len(plain) == len(rows) - 1:
        plain.append(b"")
        yield False, b"\n".join(plain)
        return
    yield from joined(
        (stream == b"err", data if kind == b"F" else data[:-1]) for _, _, _, stream, kind, data in _lines().findall(raw)
    )


def raw_lines(raw: bytes) -> list[Line]:
    """As `Batch.lines`."""
    seconds: dict[tuple[bytes, bytes], int] = {}
    lines = []
    for second, nanos, zone, stream, kind, data in _lines().findall(raw):
        start = seconds.get((second, zone))
        if start is None:
            start = seconds[second, zone] = _seconds(second + zone)
        partial = kind == b"P"
        lines.append(Line(start * _NS + int(nanos), stream == b"err", data[:-1] if partial else data, partial))
    return lines


def _seconds(text: bytes) -> int:
    try:
        return int(datetime.fromisoformat(text.decode("ascii")).timestamp())
    except ValueError:
        return 0


def joined(pieces: Iterator[tuple[bool, bytes]]) -> Iterator[tuple[bool, bytes]]:
    """Neighbours of one stream as one piece."""
    parts: list[bytes] = []
    current = False
    for stderr, data in pieces:
        if parts and stderr is not current:
            yield current, b"".join(parts)
            parts = []
        current = stderr
        parts.append(data)
    if parts:
        yield current, b"".join(parts)


def stamp(time_ns: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, as docker shows it."""
    seconds, nanos = divmod(time_ns, _NS)
    return b"%s.%09dZ" % (_text(seconds), nanos)


_TEXTS: dict[int, bytes] = {}


def _text(seconds: int) -> bytes:
    text = _TEXTS.get(seconds)
    if text is None:
        if len(_TEXTS) > 1000:
            _TEXTS.clear()
        text = _TEXTS[seconds] = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
    return text
