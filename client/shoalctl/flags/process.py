"""Flags about the container's process: restart policy, entrypoint, signals, platform."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault

_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]{1,14}|\d{1,2}", re.IGNORECASE)
RESTARTS = ("no", "on-failure", "always", "unless-stopped")


class Restart(NamedTuple):
    """`--restart`; `max_retries` of 0 is without limit."""

    name: str
    max_retries: int = 0


def parse_restart(text: str) -> Restart:
    """`no`, `on-failure[:n]`, `always`, `unless-stopped`; empty is no. Raises UsageFault."""
    name, colon, count = text.partition(":")
    name = name or "no"
    if name not in RESTARTS:
        raise UsageFault(f"invalid restart policy {text!r}", hint=f"choose {', '.join(RESTARTS)}")
    if not colon:
        return Restart(name)
    if name != "on-failure" or not re.fullmatch(r"\d{1,9}", count):
        raise UsageFault(f"invalid restart policy {text!r}", hint="only on-failure takes a number: on-failure:5")
    return Restart(name, int(count))


def parse_signal(text: str) -> str:
    """A signal's name or number, as it is. Raises UsageFault when it can be neither."""
    if not _SIGNAL.fullmatch(text):
        raise UsageFault(f"invalid signal {text!r}", hint="write a name or a number: TERM, SIGHUP, 9")
    return text


def entrypoint(text: str) -> list[str]:
    """`--entrypoint`: one program; a JSON list gives it arguments; empty is none. Raises UsageFault."""
    if not text:
        return []
    if not text.startswith("["):
        return [text]
    import json

    try:
        words = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageFault(f"invalid entrypoint {text!r}", hint='a list holds strings: ["sh", "-c"]')
    return words


def shown(words: list[str]) -> str:
    """A command line for people."""
    return " ".join(word if word and not any(c.isspace() for c in word) else shlex.quote(word) for word in words)
