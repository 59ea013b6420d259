"""Text of an image, made harmless: it ends up in documents that people and programs read."""

from __future__ import annotations

import unicodedata

MAX_TEXT = 500
"""Characters of one value; what is longer ends in "…", so that a part is never taken for the whole."""

_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: control characters, those that change the direction of text, lone surrogates, nothing at all."""


def plain(text: str, most: int = MAX_TEXT) -> str:
    """One line without control and format characters, runs of blanks as one, at most `most` characters."""
    cut = len(text) > 4 * most
    text = text[: 4 * most]
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if each.isspace() else each for each in text if each.isspace() or _shown(each))
    text = " ".join(text.split())
    return f"{text[: most - 1]}…" if cut or len(text) > most else text


def decoded(body: bytes) -> str:
    """The text of a file; what is not UTF-8 becomes U+FFFD."""
    return body.decode("utf-8", errors="replace")


def _shown(character: str) -> bool:
    return unicodedata.category(character) not in _NOT_SHOWN
