"""Expansion of variables in a word, as BuildKit's shell lexer does it, with bounds on time and size.

`$name`, `${name}`, `${name:-word}`, `${name-word}`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/pattern/text` and
`//pattern/text`; quotes and escapes are removed. https://docs.docker.com/reference/dockerfile/#environment-replacement
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shoald.dockerfile.errors import DockerfileError
from shoald.dockerfile.wildcard import Wildcard

MAX_RESULT = 4 * 1024 * 1024
"""An expanded word of more characters is refused: Linux takes no larger environment."""
MAX_WORK = 32 * 1024 * 1024
"""Pattern length times text length of one substitution may not exceed this."""
_MAX_DEPTH = 50
_SPECIAL = frozenset("@*#?-$!0")


@dataclass(frozen=True, slots=True)
class Expansion:
    """A word after expansion; `unmatched` are the variables that had no value; `cost` counts characters and steps."""

    text: str
    words: tuple[str, ...]
    matched: frozenset[str]
    unmatched: frozenset[str]
    cost: int


def expand(
    word: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    quotes: bool = True,
    raw_quotes: bool = False,
    keep_unset: bool = False,
) -> Expansion:
    """Expand `word` with the values of `env`.

    `quotes=False` treats quote characters as any other (for the text of heredocs); `raw_quotes` processes but keeps
    them; `keep_unset` leaves references to unknown variables as they are. `words` is the result split at blanks
    outside of quotes. Raises DockerfileError (DOCKERFILE_EXPANSION).
    """
    if "$" not in word and escape not in word and not (quotes and ("'" in word or '"' in word)):
        return Expansion(word, tuple(word.split()), frozenset(), frozenset(), len(word))
    lexer = _Lexer(word, env, escape, quotes, raw_quotes, keep_unset)
    try:
        text, words = lexer.until(None, raw_escapes=False)
    except ValueError as e:
        shown = word if len(word) <= 200 else word[:200] + "..."
        raise DockerfileError(f'failed to process "{shown}": {e}', reason="DOCKERFILE_EXPANSION") from None
    cost = len(word) + len(text) + lexer.work
    return Expansion(text, tuple(words), frozenset(lexer.matched), frozenset(lexer.unmatched), cost)


class _Words:
    """Collects characters into words: blanks separate, unless they were quoted or escaped."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._open: list[str] = []

    def add(self, text: str, *, split: bool) -> None:
        for char in text if split else (text,):
            if split and char.isspace():
                self._close()
            elif char:
                self._open.append(char)

    def _close(self) -> None:
        if self._open:
            self._done.append("".join(self._open))
            self._open = []

    def result(self) -> list[str]:
        self._close()
        return self._done


class _Lexer:
    def __init__(
        self, text: str, env: Mapping[str, str], escape: str, quotes: bool, raw_quotes: bool, keep_unset: bool
    ) -> None:
        self._text, self._at, self._env, self._escape = text, 0, env, escape
        self._raw_quotes, self._keep_unset = raw_quotes, keep_unset
        self._raw_escapes = False
        self._depth = 0
        self._size = 0
        self.work = 0
        self.matched: set[str] = set()
        self.unmatched: set[str] = set()
        self._special: dict[str, Callable[[], str]] = {"$": self._dollar}
        if quotes:
            self._special |= {"'": self._single_quoted, '"': self._double_quoted}

    def until(self, stop: str | None, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to and over the character `stop` (None: the end)."""
        outer, self._raw_escapes = self._raw_escapes, raw_escapes
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("substitutions are nested too deeply")
        out: list[str] = []
        words = _Words()
        try:
            while char := self._peek():
                if char == stop:
                    self._at += 1
                    return "".join(out), words.result()
                if handler := self._special.get(char):
                    piece = handler()
                    words.add(piece, split=char == "$")
                else:
                    piece = self._plain(words)
                self._grow(len(piece))
                out.append(piece)
        finally:
            self._raw_escapes = outer
            self._depth -= 1
        if stop is not None:
            raise ValueError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out), words.result()

    def _plain(self, words: _Words) -> str:
        char = self._next()
        if char != self._escape:
            words.add(char, split=True)
            return char
        kept = char if self._raw_escapes else ""
        escaped = self._next()
        words.add(kept + escaped, split=False)
        return kept + escaped

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_RESULT:
            raise ValueError(f"the result has more than {MAX_RESULT} characters")

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise ValueError("unexpected end of statement while looking for matching single-quote")
        begin, self._at = self._at, end + 1
        return self._text[begin : end + 1] if self._raw_quotes else self._text[begin + 1 : end]

    def _double_quoted(self) -> str:
        mark = self._next() if self._raw_quotes else (self._next(), "")[1]
        out = [mark]
        while char := self._peek():
            if char == '"':
                self._at += 1
                out.append(mark)
                return "".join(out)
            if char == "$":
                piece = self._dollar()
            else:
                piece = self._next()
                if char == self._escape:
                    following = self._peek()
                    kept = char if self._raw_escapes else ""
                    if not following:
                        piece = kept
                    elif following in ('"', "$", self._escape):
                        piece = kept + self._next()
                    else:
                        piece = kept + char
            self._grow(len(piece))
            out.append(piece)
        raise ValueError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self._keep_unset else value or ""
        self._at += 1
        if not self._peek():
            raise ValueError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise ValueError("syntax error: bad substitution")
        name = self._name()
        return self._modified(name)

    def _modified(self, name: str) -> str:
        operator = self._next()
        if not operator:
            raise ValueError("syntax error: missing '}'")
        if operator == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._keep_unset else value or ""
        if operator == "/":
            return self._substituted(name)
        colon = operator == ":"
        if colon:
            operator = self._next()
            if not operator:
                raise ValueError("syntax error: missing '}'")
        shown = ":" * colon + operator
        unsupported = ValueError(f"unsupported modifier ({shown}) in substitution")
        if (operator in "#%") if colon else (operator not in "+-?#%"):
            raise unsupported
        word = self._inner("}", raw_escapes=operator in "#%", missing="syntax error: missing '}'")
        value = self._value(name)
        if value is None and self._keep_unset:
            return f"${{{name}{shown}{word}}}"
        if operator not in "+-?#%":
            raise unsupported
        if operator in "#%":
            return self._trimmed(operator, word, value or "")
        unset = value is None or (colon and not value)
        if operator == "?" and unset:
            default = "is not allowed to be unset" if value is None else "is not allowed to be empty"
            raise ValueError(f"{name}: {word or default}")
        if operator == "+":
            return "" if unset else word
        return word if unset else value or ""

    def _trimmed(self, operator: str, word: str, value: str) -> str:
        longest = word.startswith(operator)
        pattern = self._pattern(word[1:] if longest else word, value)
        if operator == "#":
            length = pattern.prefix(value, longest=longest)
            return value if length is None else value[length:]
        length = pattern.reverse().prefix(value[::-1], longest=longest)
        return value if length is None else value[: len(value) - length]

    def _substituted(self, name: str) -> str:
        every = self._peek() == "/"
        self._at += every
        pattern = self._inner("/", raw_escapes=True, missing="syntax error: missing '/' in ${}")
        replacement = self._inner("}", raw_escapes=True, missing="syntax error: missing '}'")
        value = self._value(name)
        if value is None and self._keep_unset:
            return f"${{{name}{'//' if every else '/'}{pattern}/{replacement}}}"
        compiled = self._pattern(pattern, value or "")
        if len(replacement) * (len(value or "") + 1) > MAX_WORK:
            raise ValueError("the substitution is too large")
        return compiled.replace(value or "", replacement, every=every)

    def _pattern(self, pattern: str, value: str) -> Wildcard:
        work = (len(pattern) + 1) * (len(value) + 1)
        if work > MAX_WORK:
            raise ValueError("the pattern and the value are too long")
        self.work += work
        return Wildcard.parse(pattern)

    def _inner(self, stop: str, *, raw_escapes: bool, missing: str) -> str:
        try:
            return self.until(stop, raw_escapes=raw_escapes)[0]
        except ValueError:
            if not self._peek():
                raise ValueError(missing) from None
            raise

    def _name(self) -> str:
        begin = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL:
            self._at += 1
        else:
            while (char := self._peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self._at += 1
        return self._text[begin : self._at]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.unmatched if value is None else self.matched).add(name)
        if value is not None:
            self._grow(len(value))
        return value
