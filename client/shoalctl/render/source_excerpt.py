"""The lines of a file that an error is about, with a mark in front and a caret below."""

from __future__ import annotations

from shoalctl.render.console import printable

_AROUND = 2
_RULE = "-" * 20


def excerpt(name: str, text: str, start: int, end: int) -> list[str]:
    """The lines to print; empty when the file has no line `start` (1-based; `end` inclusive)."""
    lines = text.splitlines()
    if not 1 <= start <= len(lines):
        return []
    end = min(max(end, start), len(lines))
    shown = [f"{printable(name)}:{start}", _RULE]
    for number in range(max(1, start - _AROUND), min(len(lines), end + _AROUND) + 1):
        line = printable(lines[number - 1].expandtabs(4))
        mark = ">>>" if start <= number <= end else "   "
        shown.append(f"{number:>4} | {mark} {line}".rstrip())
        if number == end:
            first = lines[start - 1].expandtabs(4) if start == end else line
            indent = len(first) - len(first.lstrip())
            shown.append(" " * (11 + indent) + "^" * max(len(first.strip()), 1))
    return [*shown, _RULE]
