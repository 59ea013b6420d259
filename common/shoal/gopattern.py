"""Go's path.Match, by which Dockerfiles name files and docker's filters name images: `*` and `?` stop at slashes.

https://pkg.go.dev/path#Match
"""

from __future__ import annotations

import re
from functools import lru_cache

from shoal.errors import InvalidArgument

HAS_WILDCARD = re.compile(r"[*?\[\\]")
_NOTHING = r"\x00"
"""A character that no name has: a set of characters must not be empty."""


@lru_cache(maxsize=1024)
def pattern_regex(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for whole names. Raises InvalidArgument (BAD_PATTERN).

    It never takes more steps than pattern times name: what lies between two stars is taken where it first fits and
    never looked for again (an atomic group), which is enough for patterns like these.
    """
    chunks, at = [""], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "[^/]"
        elif char == "[":
            at, expression = _bracket(pattern, at)
            chunks[-1] += expression
        else:
            if char == "\\":
                char = pattern[at : at + 1]
                at += 1
                if not char:
                    raise _bad_pattern(pattern)
            chunks[-1] += re.escape(char)
    head, *middle, last = chunks if len(chunks) > 1 else (chunks[0], None)
    inner = "".join(f"(?>[^/]*?{chunk})" for chunk in middle if chunk)
    return re.compile(head if last is None else f"{head}{inner}[^/]*{last}", re.DOTALL)


def _bracket(pattern: str, at: int) -> tuple[int, str]:
    """Read a bracket expression after its `[`: where it ends, and the same as a regular expression."""
    negated = pattern.startswith("^", at)
    at += negated
    body = ""
    while not (body and pattern.startswith("]", at)):
        at, low = _bracket_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            at, high = _bracket_char(pattern, at + 1)
        # In Go a range that runs backwards matches nothing.
        body += f"{re.escape(low)}-{re.escape(high)}" if low <= high else _NOTHING
    return at + 1, f"[{'^' * negated}{body}]"


def _bracket_char(pattern: str, at: int) -> tuple[int, str]:
    if pattern[at : at + 1] in ("", "-", "]"):
        raise _bad_pattern(pattern)
    if pattern[at] == "\\":
        at += 1
    if at + 1 >= len(pattern):
        raise _bad_pattern(pattern)
    return at + 1, pattern[at]


def _bad_pattern(pattern: str) -> InvalidArgument:
    return InvalidArgument(f"syntax error in pattern {pattern[:200]!r}", reason="BAD_PATTERN")
