"""What a Dockerfile can get wrong: one error class whose metadata names the file and the lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Span:
    """A range of lines of a Dockerfile, 1-based and inclusive; (0, 0) is the file as a whole."""

    start: int = 0
    end: int = 0


_MAX_OPTIONS = 500
NOWHERE = Span()
"""The span of a finding about the whole file or the request."""


class DockerfileError(InvalidArgument):
    """A Dockerfile, or a request to build it, that can never work.

    Reasons: DOCKERFILE_SYNTAX, DOCKERFILE_EMPTY, DOCKERFILE_TOO_LARGE, DOCKERFILE_EXPANSION, DOCKERFILE_STAGE,
    DOCKERFILE_TARGET and DOCKERFILE_CHECKS. Metadata: `file`, and `start_line` and `end_line` (1-based, inclusive)
    when the error has a place in the file.
    """

    default_reason = "DOCKERFILE_SYNTAX"

    def __init__(
        self, message: str, *, span: Span = NOWHERE, reason: str | None = None, hint: str | None = None, file: str = ""
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.place(span, file)

    def place(self, span: Span, file: str = "") -> DockerfileError:
        """Add where the error is, unless it already says so; return the error itself."""
        if span.start and "start_line" not in self.metadata:
            self.metadata["start_line"] = str(span.start)
            self.metadata["end_line"] = str(max(span.start, span.end))
        if file:
            self.metadata.setdefault("file", file)
        return self

    @property
    def span(self) -> Span:
        """The lines that the error is about; (0, 0) for the whole file."""
        return Span(int(self.metadata.get("start_line", 0)), int(self.metadata.get("end_line", 0)))


def parse_error(message: str, span: Span, *, reason: str | None = None) -> DockerfileError:
    """An error of the parser, worded as Docker words it: `dockerfile parse error on line 3: ...`."""
    return DockerfileError(f"dockerfile parse error on line {span.start}: {message}", span=span, reason=reason)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`" (did you mean X?)"` for the nearest option at a distance below 3, else ""; the case follows `word`."""
    match = nearest(word, options)
    return f" (did you mean {match}?)" if match else ""


def nearest(word: str, options: Iterable[str]) -> str:
    """The option nearest to `word` at a Levenshtein distance of 1 or 2, or "" (also when `word` is an option).

    Among more than 500 options nothing is looked for: it would take too long.
    """
    options = list(options)
    if len(options) > _MAX_OPTIONS:
        return ""
    best, best_rank = "", (min(3, len(word)), False)
    folded = word.lower()
    for option in sorted(options):
        if option == word:
            return ""
        distance = _distance(folded, option.lower(), 3)
        # Of equals, swapped letters are the likelier slip: `chwon` is chown rather than chmod.
        rank = (distance, distance < 3 and sorted(folded) != sorted(option.lower()))
        if rank < best_rank:
            best, best_rank = option, rank
    return best.lower() if word == folded and best.isupper() else best


def _distance(a: str, b: str, limit: int) -> int:
    """The Levenshtein distance, or `limit` when it is not below that."""
    if abs(len(a) - len(b)) >= limit:
        return limit
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return min(row[-1], limit)
