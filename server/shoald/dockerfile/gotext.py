"""Values as Go writes and reads them, because Docker's image histories and durations are made that way."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile("([0-9]{1,19})?(?:\\.([0-9]{1,19})?)?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)
_MAX_DURATION = 2**63 - 1
_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))? ?([kmgtp])?(i?b)?", re.IGNORECASE | re.ASCII)
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(text: str) -> str:
    """`text` as `%q` prints it."""
    return '"' + "".join(_quoted(c) for c in text) + '"'


def _quoted(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_all(words: Iterable[str]) -> str:
    """A slice as `%q` prints it: `["a" "b"]`."""
    return "[" + " ".join(map(quote, words)) + "]"


def plain_all(words: Iterable[str]) -> str:
    """A slice as `%v` prints it: `[a b]`."""
    return "[" + " ".join(words) + "]"


def parse_duration(text: str) -> int:
    """`1h2m3.5s` in nanoseconds (Go's time.ParseDuration). Raises ValueError."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        match = _DURATION_PART.match(rest, at)
        if match is None or (match[1] is None and match[2] is None):
            break
        unit = _UNITS[match[3]]
        total += int(match[1] or 0) * unit
        if match[2]:
            total += int(match[2]) * unit // 10 ** len(match[2])
        at = match.end()
    if not rest or at < len(rest) or total > _MAX_DURATION:
        raise ValueError(f"time: invalid duration {quote(text[:200])}")
    return sign * total


def format_duration(nanoseconds: int) -> str:
    """Nanoseconds as Go prints a duration: `1m30s`, `1.5s`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000_000_000:
        for unit in ("ms", "\u00b5s", "ns"):
            if rest >= _UNITS[unit]:
                return f"{sign}{_decimal(rest, _UNITS[unit])}{unit}"
    hours, rest = divmod(rest, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    out = f"{hours}h" if hours else ""
    out += f"{minutes}m" if hours or minutes else ""
    return f"{sign}{out}{_decimal(rest, _UNITS['s'])}s"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    return f"{whole}.{part:0{len(str(unit)) - 1}d}".rstrip("0")


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool. Raises ValueError."""
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise ValueError(f"invalid boolean {text[:200]!r}")


def parse_unsigned(text: str, *, base: int = 10, limit: int = 2**32 - 1) -> int:
    """A number of ASCII digits up to `limit`. Raises ValueError."""
    digits = "01234567" if base == 8 else "0123456789"
    if not text or len(text) > 20 or any(c not in digits for c in text):
        raise ValueError(f"invalid number {text[:200]!r}")
    number = int(text, base)
    if number > limit:
        raise ValueError(f"number {text} is out of range")
    return number


def parse_size(text: str) -> int:
    """`64m`, `1.5GiB` in bytes, all units of 1024 (docker/go-units RAMInBytes). Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid size {text[:200]!r}")
    unit = 1024 ** (1 + "kmgtp".index(match[3].lower())) if match[3] else 1
    size = int(match[1]) * unit + (int(match[2]) * unit // 10 ** len(match[2]) if match[2] else 0)
    if size > _MAX_DURATION:
        raise ValueError(f"size {text} is out of range")
    return size
