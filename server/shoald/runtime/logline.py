"""The format that conmon writes (k8s-file, the Kubernetes CRI log format): `TIME STREAM P|F DATA`, one record a line.

F ends with the newline that the container wrote; P is a part of a line, and its newline belongs to the format. Joined
in order, the records of a stream are exactly the bytes that the container wrote.
"""

from __future__ import annotations

import re
from datetime import datetime

from shoald.model.log import LogRecord

_LINE = re.compile(
    rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:[+-]\d\d:\d\d|Z)) std(out|err) ([PF]) (.*\n)", re.MULTILINE
)
# "^(.*\n)": a dot never matches a newline, so that a record is one line whatever bytes it holds.

_NS = 1_000_000_000


def parse_records(lines: bytes) -> list[LogRecord]:
    """The records in whole lines. A line that is none (torn by a crash) is left out."""
    # Lines that conmon read at once share a time, and many more share a second.
    times: dict[bytes, int] = {}
    seconds: dict[bytes, int] = {}
    known = times.get
    return [
        LogRecord(known(time) or _remember(times, seconds, time), stream == b"err", data, False)
        if kind == b"F"
        else LogRecord(known(time) or _remember(times, seconds, time), stream == b"err", data[:-1], True)
        for time, stream, kind, data in _LINE.findall(lines)
    ]


def parse_spans(lines: bytes) -> list[tuple[LogRecord, int]]:
    """As `parse_records`, each with the offset where its line starts."""
    starts = [match.start() for match in _LINE.finditer(lines)]
    return list(zip(parse_records(lines), starts, strict=True))


def _remember(times: dict[bytes, int], seconds: dict[bytes, int], time: bytes) -> int:
    whole = time[:19] + time[29:]
    start = seconds.get(whole)
    if start is None:
        start = seconds[whole] = _parse_second(whole)
    result = times[time] = start + int(time[20:29])
    return result


def _parse_second(whole: bytes) -> int:
    """Nanoseconds since the epoch for RFC 3339 without a fraction; 0 for a time that can't be (a damaged line)."""
    try:
        return int(datetime.fromisoformat(whole.decode("ascii")).timestamp()) * _NS
    except ValueError:
        return 0


def line_ends(lines: bytes, *, stdout: bool, stderr: bool) -> list[int]:
    """Offsets just after each record of the wanted streams that ends a line."""
    wanted = {b"out"} if stdout else set()
    if stderr:
        wanted.add(b"err")
    return [m.end() for m in _LINE.finditer(lines) if m.group(3) == b"F" and m.group(2) in wanted]
