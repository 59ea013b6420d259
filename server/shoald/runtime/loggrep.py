"""grep over a log's records: whole lines, matched in linear time (RE2), whatever the pattern and the line.

A line may come in several records. They are kept until its end is there, the line is longer than 64 KiB, or the log has
been silent for half a second in its middle; the rest of a line goes the way its beginning went. Records of the other
stream wait meanwhile: order is never changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import re2

from shoal.errors import InvalidArgument
from shoald.model.log import Grep, LogRecord

LONGEST_PATTERN = 4096
LONGEST_LINE = 64 << 10
HOLD_S = 0.5
_PROGRAM_MEMORY = 4 << 20

Matcher = Callable[[bytes], bool]


def matcher(grep: Grep) -> Matcher:
    """Whether a line is wanted. Raises InvalidArgument (INVALID_PATTERN)."""
    pattern = grep.pattern.encode("utf-8", "surrogateescape")
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidArgument(f"the pattern is longer than {LONGEST_PATTERN} bytes", reason="INVALID_PATTERN")
    wanted = not grep.invert
    if not grep.regex and not grep.ignore_case:
        return lambda line: (pattern in line) is wanted
    options = re2.Options()
    options.max_mem = _PROGRAM_MEMORY
    options.log_errors = False
    options.case_sensitive = not grep.ignore_case
    options.literal = not grep.regex
    options.never_capture = True
    try:
        search = re2.compile(pattern, options).search
    except re2.error as error:
        text = error.args[0] if error.args else ""
        raise InvalidArgument(
            f"the pattern can't be used: {text.decode(errors='replace') if isinstance(text, bytes) else text}",
            reason="INVALID_PATTERN",
            hint="it is a regular expression of RE2: no look-around and no back-references",
        ) from None
    return lambda line: (search(line) is not None) is wanted


class LineFilter:
    """Takes records with the cursors before them; gives those of wanted lines, in order."""

    def __init__(self, grep: Grep) -> None:
        self._wanted = matcher(grep)
        self._held: list[LogRecord] = []
        self._size = 0
        self._decided: dict[bool, bool] = {}
        """Streams in the middle of a line that was decided already."""
        self.held_since = 0.0
        """When the oldest held record came (monotonic); 0: nothing is held."""
        self.first_held_at = ""
        """The cursor before the oldest held record."""

    def feed(self, records: Iterable[tuple[LogRecord, Callable[[], str]]]) -> list[LogRecord]:
        """The records that are certain now. Each comes with what tells the cursor before it."""
        out: list[LogRecord] = []
        open_streams = {record.stderr for record in self._held if record.partial} if self._held else set()
        for record, cursor in records:
            if not self._held and (not record.partial or record.stderr in self._decided):
                self._simple(record, out)
                continue
            if not self._held:
                self.held_since, self.first_held_at = time.monotonic(), cursor()
                open_streams = set()
            self._held.append(record)
            self._size += len(record.data)
            (open_streams.add if record.partial else open_streams.discard)(record.stderr)
            if not open_streams or self._size > LONGEST_LINE:
                out += self.flush()
                open_streams = set()
        return out

    def _simple(self, record: LogRecord, out: list[LogRecord]) -> None:
        known = self._decided.get(record.stderr)
        if self._wanted(record.data.removesuffix(b"\n")[:LONGEST_LINE]) if known is None else known:
            out.append(record)
        if known is not None and not record.partial:
            del self._decided[record.stderr]

    def flush(self) -> list[LogRecord]:
        """Decide on all that is held, with what is there of it."""
        wanted: dict[int, bool] = {}
        for line in self._lines():
            stream, last = line[0].stderr, line[-1]
            verdict = self._decided.pop(stream, None)
            if verdict is None:
                verdict = self._wanted(b"".join(record.data for record in line).removesuffix(b"\n")[:LONGEST_LINE])
            if last.partial:
                self._decided[stream] = verdict
            wanted.update((id(record), verdict) for record in line)
        out = [record for record in self._held if wanted[id(record)]]
        self._held, self._size, self.held_since, self.first_held_at = [], 0, 0.0, ""
        return out

    def _lines(self) -> list[list[LogRecord]]:
        """The held records by line, each stream's in order."""
        lines: list[list[LogRecord]] = []
        current: dict[bool, list[LogRecord]] = {}
        for record in self._held:
            if record.stderr not in current:
                current[record.stderr] = []
                lines.append(current[record.stderr])
            current[record.stderr].append(record)
            if not record.partial:
                del current[record.stderr]
        return lines
