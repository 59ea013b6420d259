"""References and platforms of the command line, checked before any host is asked."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import InvalidArgument
from shoalctl.flags.fault import UsageFault


def checked_reference(text: str) -> str:
    """The reference as it was written, if it can be one. Raises UsageFault."""
    from shoal.reference import Reference

    try:
        Reference.parse(text)
    except InvalidArgument as error:
        raise UsageFault(f"{text[:160]!r}: {error.message}", hint=error.hint) from error
    return text


def checked_platforms(texts: Iterable[str]) -> list[tuple[str, str, str]]:
    """Those of `--platform A,B` and of the flag given more than once, each once. Raises UsageFault."""
    found = []
    for part in (part for text in texts if text for part in text.split(",")):
        platform = checked_platform(part)
        if platform is None:
            raise UsageFault(f"invalid platforms {','.join(texts)!r}: one is empty")
        found.append(platform)
    return list(dict.fromkeys(found))


def checked_pattern(text: str) -> str:
    """The reference, or the pattern for references (`busy*`, `*/*:1.?`), if it can be one. Raises UsageFault."""
    from shoal.gopattern import HAS_WILDCARD, pattern_regex

    if not HAS_WILDCARD.search(text):
        return checked_reference(text)
    try:
        pattern_regex(text)
    except InvalidArgument as error:
        raise UsageFault(error.message, hint="wildcards are *, ? and [...]") from error
    return text


def checked_platform(text: str) -> tuple[str, str, str] | None:
    """System, architecture and variant of `--platform`; None when it is empty. Raises UsageFault."""
    if not text:
        return None
    from shoal.platform import Platform

    try:
        platform = Platform.parse(text)
    except InvalidArgument as error:
        raise UsageFault(error.message, hint=error.hint) from error
    return platform.os, platform.architecture, platform.variant
