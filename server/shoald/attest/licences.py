"""Licence expressions of SPDX (SPDX 2.3, annex D): what is one is told from what is not."""

from __future__ import annotations

import re

from shoald.attest.licence_ids import EXCEPTIONS, LICENCES

MAX_EXPRESSION = 1000
MAX_DEPTH = 30

_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z0-9][A-Za-z0-9.+-]*))")
_OPERATORS = frozenset({"AND", "OR"})


def expression(text: str) -> str:
    """The expression in its canonical writing, or "" when it is none.

    Only identifiers of the licence list make one: a LicenseRef has a meaning in the document alone that it is from.
    """
    tokens = _tokens(text)
    reader = _Reader(tokens or [])
    if not tokens or not reader.compound(0) or reader.at != len(tokens):
        return ""
    return " ".join(reader.written).replace("( ", "(").replace(" )", ")")


def _tokens(text: str) -> list[str] | None:
    text = text.strip()
    if len(text) > MAX_EXPRESSION:
        return None
    tokens: list[str] = []
    at = 0
    while at < len(text):
        matched = _TOKEN.match(text, at)
        if matched is None:
            return None
        tokens.append(matched[1] or matched[2])
        at = matched.end()
    return tokens


class _Reader:
    """Reads tokens; each method says whether what it stands for was there."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self.at = 0
        self.written: list[str] = []

    def _next(self) -> str:
        return self._tokens[self.at] if self.at < len(self._tokens) else ""

    def _take(self, written: str) -> None:
        self.written.append(written)
        self.at += 1

    def compound(self, depth: int) -> bool:
        """Terms that are joined by AND and OR."""
        while self._term(depth):
            if self._next().upper() not in _OPERATORS:
                return True
            self._take(self._next().upper())
        return False

    def _term(self, depth: int) -> bool:
        if self._next() != "(":
            return self._licence()
        if depth >= MAX_DEPTH:
            return False
        self._take("(")
        if not self.compound(depth + 1) or self._next() != ")":
            return False
        self._take(")")
        return True

    def _licence(self) -> bool:
        name = self._next().lower()
        if (known := LICENCES.get(name)) is None and (base := LICENCES.get(name.removesuffix("+"))) is not None:
            known = f"{base}+"
        if known is None:
            return False
        self._take(known)
        if self._next().upper() == "WITH":
            self._take("WITH")
            exception = EXCEPTIONS.get(self._next().lower())
            if exception is None:
                return False
            self._take(exception)
        return True
