"""`.dockerignore`: which files of a build context stay out, with exactly Docker's rules (moby/patternmatcher).

Not git's rules: a pattern is anchored at the root of the context unless it begins with `**`, what lies under an
excluded directory is excluded with it, and the last pattern that matches wins. The client and the daemon both use this.
https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from enum import Enum

from shoal.errors import InvalidArgument

MAX_PATTERNS = 10_000
"""More patterns than this are refused."""
MAX_PATTERN = 4096
"""A longer pattern can match no path."""
_MAX_REGEX_LOOPS = 2
_MAX_CACHE = 4096


class Matcher:
    """Patterns in order, the `!` exceptions among them. Paths are relative to the context and use `/`.

    Asking for paths in the order of a walk is cheap: what is known of their directories is kept.
    """

    def __init__(self, patterns: Iterable[str], *, windows: bool = False) -> None:
        r"""Compile the patterns; `windows`: `\` separates directories instead of escaping.

        Raises InvalidArgument (reason DOCKERIGNORE_SYNTAX).
        """
        self._patterns: list[_Pattern] = []
        for text in patterns:
            if pattern := _parse(text, windows):
                self._patterns.append(pattern)
        if len(self._patterns) > MAX_PATTERNS:
            raise _invalid(f"more than {MAX_PATTERNS} ignore patterns")
        self._exceptions = [p for p in self._patterns if p.exception]
        self._known: dict[str, tuple[bool, tuple[bool, ...]]] = {}

    @classmethod
    def parse(cls, text: str | bytes, *, windows: bool = False) -> Matcher:
        """Read a `.dockerignore` file: one pattern a line, `#` comments, `!` exceptions.

        Raises InvalidArgument (reason DOCKERIGNORE_SYNTAX).
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        lines = re.split(r"\r?\n", text.removeprefix("\ufeff"))
        return cls((line for line in lines if not line.startswith("#")), windows=windows)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns in clean form, exceptions with their `!`."""
        return tuple("!" * p.exception + p.text for p in self._patterns)

    @property
    def has_exceptions(self) -> bool:
        """Whether any pattern begins with `!`."""
        return bool(self._exceptions)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excluded(self, path: str) -> bool:
        """Whether the file or directory `path` stays out, by itself or with one of its parents."""
        return bool(self._patterns) and self._evaluate(path)[0]

    def may_descend(self, directory: str) -> bool:
        """Whether a walk must look into `directory`: it is not excluded, or an exception may bring back a part."""
        if not self.excluded(directory):
            return True
        segments = directory.split("/")
        return any(pattern.may_match_under(segments) for pattern in self._exceptions)

    def _evaluate(self, path: str) -> tuple[bool, tuple[bool, ...]]:
        parent, _, _ = path.rpartition("/")
        if not parent:
            return self._match(path, ())
        known = self._known.get(parent)
        if known is None:
            known = self._climb(parent)
        return self._match(path, known[1])

    def _climb(self, directory: str) -> tuple[bool, tuple[bool, ...]]:
        """Evaluate a directory from the root down and keep what is found."""
        found: tuple[bool, tuple[bool, ...]] = (False, ())
        end = -1
        while end < len(directory):
            end = directory.find("/", end + 1)
            end = len(directory) if end < 0 else end
            current = directory[:end]
            known = self._known.get(current)
            if known is None:
                known = self._match(current, found[1])
                if len(self._known) >= _MAX_CACHE:
                    self._known.clear()
                self._known[current] = known
            found = known
        return found

    def _match(self, path: str, parent: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
        """Whether `path` is excluded, and which patterns matched it; `parent` is the same of its directory."""
        excluded = False
        matched: list[bool] = []
        for at, pattern in enumerate(self._patterns):
            hit = bool(parent) and parent[at]
            # A pattern that could not change the result is not asked, and counts as no match for what lies below.
            if not hit and pattern.exception == excluded:
                hit = pattern.matches(path)
            matched.append(hit)
            if hit:
                excluded = not pattern.exception
        return excluded, tuple(matched)


class _Kind(Enum):
    TEXT = "text"
    CHAR = "?"
    CLASS = "[...]"
    STAR = "*"
    DIRECTORIES = "**/"
    ALL = "**"


_Token = tuple[_Kind, str]
_LOOPS = frozenset({_Kind.STAR, _Kind.DIRECTORIES, _Kind.ALL})


class _Pattern:
    def __init__(self, text: str, exception: bool, escapes: bool) -> None:
        self.text, self.exception = text, exception
        self._segments = text.split("/")
        self._literal = [not re.search(r"[*?\[\\]", segment) for segment in self._segments]
        self.matches = _compile(text, _tokens(text, escapes))

    def may_match_under(self, directory: list[str]) -> bool:
        for at, segment in enumerate(directory):
            if at >= len(self._segments):
                return False
            if "**" in self._segments[at]:
                return True
            if self._literal[at] and self._segments[at] != segment:
                return False
        return len(self._segments) > len(directory)


def _parse(line: str, windows: bool) -> _Pattern | None:
    text = line.strip()
    exception = text.startswith("!")
    if exception:
        text = text[1:].strip()
        if not text:
            raise _invalid('illegal exclusion pattern: "!"')
    if not text:
        return None
    if len(text) > MAX_PATTERN:
        raise _invalid(f"ignore pattern of {len(text)} characters")
    if windows:
        text = text.replace("\\", "/")
    text = posixpath.normpath(re.sub("/+", "/", text))
    if len(text) > 1:
        text = text.removeprefix("/")
    try:
        return _Pattern(text, exception, escapes=not windows)
    except ValueError as e:
        raise _invalid(f"invalid ignore pattern {line.strip()[:200]!r}: {e}") from None


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="DOCKERIGNORE_SYNTAX")


def _tokens(pattern: str, escapes: bool) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
            tokens.append((_Kind.DIRECTORIES if at < len(pattern) else _Kind.ALL, ""))
        elif char == "*":
            at += 1
            tokens.append((_Kind.STAR, ""))
        elif char == "?":
            at += 1
            tokens.append((_Kind.CHAR, ""))
        elif char == "[":
            at, body = _class(pattern, at + 1, escapes)
            tokens.append((_Kind.CLASS, body))
        else:
            if char == "\\" and escapes:
                at += 1
                if at >= len(pattern):
                    raise ValueError("syntax error in pattern")
                char = pattern[at]
            at += 1
            tokens.append((_Kind.TEXT, char))
    return tokens


def _class(pattern: str, at: int, escapes: bool) -> tuple[int, str]:
    """Read a bracket expression after its `[`: where it ends, and the same as a regular expression."""
    negated = pattern.startswith("^", at)
    at += negated
    body = ""
    while not (body and pattern.startswith("]", at)):
        at, low = _class_char(pattern, at, escapes)
        if pattern.startswith("-", at):
            at, high = _class_char(pattern, at + 1, escapes)
            if low > high:
                raise ValueError("bad character range in pattern")
            body += f"{re.escape(low)}-{re.escape(high)}"
        else:
            body += re.escape(low)
    return at + 1, f"[{'^' * negated}{body}]"


def _class_char(pattern: str, at: int, escapes: bool) -> tuple[int, str]:
    if pattern[at : at + 1] in {"", "-", "]"}:
        raise ValueError("syntax error in pattern")
    if pattern[at] == "\\" and escapes:
        at += 1
    if at + 1 >= len(pattern):
        raise ValueError("syntax error in pattern")
    return at + 1, pattern[at]


def _compile(pattern: str, tokens: list[_Token]) -> Callable[[str], bool]:
    kinds = [kind for kind, _ in tokens]
    if all(kind is _Kind.TEXT for kind in kinds):
        text = "".join(value for _, value in tokens)
        return lambda path: path == text
    if kinds[0] in {_Kind.DIRECTORIES, _Kind.ALL} and "\\" not in pattern and set(kinds[1:]) <= {_Kind.TEXT}:
        # As in moby: `**/name` is a file of that name at any depth, `**name` any path that ends so.
        suffix = pattern[2:]
        return lambda path: path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
    if kinds[-1] is _Kind.ALL and pattern.endswith("**") and "\\" not in pattern and set(kinds[:-1]) <= {_Kind.TEXT}:
        prefix = pattern[:-2]
        return lambda path: path.startswith(prefix)
    if sum(kind in _LOOPS for kind in kinds) <= _MAX_REGEX_LOOPS:
        compiled = re.compile("".join(map(_regex, tokens)) + r"\Z")
        return lambda path: compiled.match(path) is not None
    return _Automaton(tokens).matches


def _regex(token: _Token) -> str:
    kind, value = token
    match kind:
        case _Kind.TEXT:
            return re.escape(value)
        case _Kind.CHAR:
            return "[^/]"
        case _Kind.CLASS:
            return value
        case _Kind.STAR:
            return "[^/]*"
        case _Kind.DIRECTORIES:
            return "(?:.*/)?"
        case _Kind.ALL:
            return ".*"


class _Automaton:
    """For patterns with many wildcards, on which a regular expression could run for years: a lazily built DFA."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._classes = {value: re.compile(value) for kind, value in tokens if kind is _Kind.CLASS}
        self._start = self._close({(0, False)})
        self._next: dict[tuple[frozenset[tuple[int, bool]], str], frozenset[tuple[int, bool]]] = {}

    def matches(self, path: str) -> bool:
        states = self._start
        for char in path:
            following = self._next.get((states, char))
            if following is None:
                if len(self._next) >= _MAX_CACHE:
                    self._next.clear()
                following = self._next[states, char] = self._step(states, char)
            if not following:
                return False
            states = following
        return (len(self._tokens), False) in states

    def _close(self, states: set[tuple[int, bool]]) -> frozenset[tuple[int, bool]]:
        """A state is a position and whether it is inside the directories of a `**/`, which must end with a `/`."""
        closed: set[tuple[int, bool]] = set()
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state in closed:
                continue
            closed.add(state)
            at, inside = state
            if at < len(self._tokens) and not inside and self._tokens[at][0] in _LOOPS:
                waiting.append((at + 1, False))
        return frozenset(closed)

    def _step(self, states: frozenset[tuple[int, bool]], char: str) -> frozenset[tuple[int, bool]]:
        reached: set[tuple[int, bool]] = set()
        for at, _ in states:
            if at == len(self._tokens):
                continue
            kind, value = self._tokens[at]
            match kind:
                case _Kind.TEXT if char == value:
                    reached.add((at + 1, False))
                case _Kind.CHAR if char != "/":
                    reached.add((at + 1, False))
                case _Kind.CLASS if self._classes[value].match(char):
                    reached.add((at + 1, False))
                case _Kind.STAR if char != "/":
                    reached.add((at, False))
                case _Kind.ALL if char != "\n":
                    reached.add((at, False))
                case _Kind.DIRECTORIES if char != "\n":
                    reached.add((at, True))
                    if char == "/":
                        reached.add((at + 1, False))
                case _:
                    pass
        return self._close(reached)
