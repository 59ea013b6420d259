"""Shell patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/text}`: `?` and `*`, no brackets.

Matched by stepping through all states at once, so that no pattern takes more than pattern times text steps: a regular
expression with several `.*` would let a Dockerfile stop the daemon. As in BuildKit, no wildcard matches a newline.
"""

from __future__ import annotations

from dataclasses import dataclass

_ANY = "?"
_STAR = "*"


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A compiled pattern: literal characters as ("", c), wildcards as ("?", "") and ("*", "")."""

    tokens: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, pattern: str) -> Wildcard:
        r"""Read a pattern; `\*`, `\?` and `\\` are literal, `\}` and `\/` stand for `}` and `/`.

        Raises ValueError for any other escape.
        """
        tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(pattern):
            char = pattern[at]
            at += 1
            if char in "*?":
                if not (char == _STAR and tokens and tokens[-1][0] == _STAR):
                    tokens.append((char, ""))
                continue
            if char == "\\":
                char = pattern[at : at + 1]
                at += 1
                if not char or char not in "*?\\}/":
                    raise ValueError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'")
            tokens.append(("", char))
        return cls(tuple(tokens))

    def reverse(self) -> Wildcard:
        """The pattern that matches the same texts read backwards."""
        return Wildcard(self.tokens[::-1])

    def prefix(self, text: str, *, longest: bool) -> int | None:
        """The length of the shortest or longest start of `text` that matches, or None."""
        states = self._close({0})
        found: int | None = None
        for at in range(len(text) + 1):
            if len(self.tokens) in states:
                found = at
                if not longest:
                    return found
            if not states or at == len(text):
                break
            states = self._step(states, text[at])
        return found

    def search(self, text: str, start: int) -> tuple[int, int] | None:
        """The leftmost match at or after `start`, the longest of those; each state remembers where it began."""
        final = len(self.tokens)
        best: tuple[int, int] | None = None
        threads: dict[int, int] = {}
        for at in range(start, len(text) + 1):
            if best is None:
                for state in self._close({0}):
                    threads.setdefault(state, at)
            if final in threads and (best is None or threads[final] <= best[0]):
                best = (threads[final], at)
                threads = {s: begin for s, begin in threads.items() if begin <= best[0]}
            if at == len(text) or (best is not None and not threads):
                break
            following: dict[int, int] = {}
            for state, begin in sorted(threads.items(), key=lambda item: item[1]):
                for reached in self._step({state}, text[at]):
                    following.setdefault(reached, begin)
            threads = following
        return best

    def replace(self, text: str, replacement: str, *, every: bool) -> str:
        """`text` with the first match, or every match, replaced; an empty match right after another does not count."""
        out: list[str] = []
        at, last_end = 0, -1
        while at <= len(text):
            found = self.search(text, at)
            if found is None:
                break
            begin, end = found
            out.append(text[at:begin])
            if not (begin == end == last_end):
                out.append(replacement)
            if begin == end:
                out.append(text[end : end + 1])
            at, last_end = (end + 1 if begin == end else end), end
            if not every:
                break
        return "".join(out) + text[at:]

    def _close(self, states: set[int]) -> set[int]:
        closed = set(states)
        for state in states:
            at = state
            while at < len(self.tokens) and self.tokens[at][0] == _STAR:
                at += 1
                closed.add(at)
        return closed

    def _step(self, states: set[int], char: str) -> set[int]:
        reached: set[int] = set()
        for state in states:
            if state == len(self.tokens):
                continue
            kind, literal = self.tokens[state]
            if kind == _STAR:
                if char != "\n":
                    reached.add(state)
            elif (kind == _ANY and char != "\n") or (not kind and literal == char):
                reached.add(state + 1)
        return self._close(reached)
