"""Times and sizes for people, as docker words them."""

from __future__ import annotations

from datetime import datetime, timedelta

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def duration(span: timedelta) -> str:
    """`5 seconds`, `About a minute`, `3 hours`, `2 weeks` (docker/go-units HumanDuration)."""
    seconds = int(span.total_seconds())
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def ago(moment: datetime, now: datetime) -> str:
    """`3 hours ago`."""
    return f"{duration(max(now - moment, timedelta()))} ago"


def size(count: float) -> str:
    """Bytes in powers of 1000 with up to three digits: `1.24MB`, `512B`."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 999.5 or (unit == "B" and value < 1000):
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"


def binary_size(count: float) -> str:
    """Bytes in powers of 1024: `7.76GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g}{unit}"


def cut(text: str, length: int) -> str:
    """The text, ended by an ellipsis when it is longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"
