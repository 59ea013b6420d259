"""Headed blocks of `key: value` lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shoalctl.render import console


def show_sections(sections: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Print each block with its heading; keys in words (`MemTotal` is `Mem total`)."""
    for heading, pairs in sections:
        console.out(f"{heading}:")
        words = {key: _words(key) for key in pairs}
        width = max(map(len, words.values()), default=0) + 1
        for key, value in pairs.items():
            console.out(f"  {words[key] + ':':<{width}} {console.printable(str(value))}".rstrip())


def _words(key: str) -> str:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", key)
    return " ".join(part if part.isupper() or not at else part.lower() for at, part in enumerate(parts))
