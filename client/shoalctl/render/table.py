"""Tables as docker prints them: columns padded to their widest cell, three spaces between."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from shoalctl.render.console import printable

_GAP = "   "


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the last column is not padded."""
    cells = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(display_width(row[at]) for row in cells) for at in range(len(headers))]
    return [_line(row, widths) for row in cells]


def display_width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
    return _GAP.join(padded).rstrip()
