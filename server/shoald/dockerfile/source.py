"""Text of a Dockerfile -> nodes: lines joined, comments dropped, flags, JSON forms and heredocs told apart.

A thin layer over `e2b_dockerfile_utils`, a port of BuildKit's parser: it adds limits against hostile input, the
`syntax` and `check` directives, line ranges and Docker's messages.
https://docs.docker.com/reference/dockerfile/#format
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from e2b_dockerfile_utils import DockerfileInstruction, DockerfileSyntaxError, parse_dockerfile_ast

from shoald.dockerfile.checks import CheckOptions, Finding, finding
from shoald.dockerfile.errors import DockerfileError, Span, did_you_mean, parse_error

MAX_BYTES = 1024 * 1024
"""A larger Dockerfile is refused."""
MAX_INSTRUCTIONS = 10_000
"""More instructions than this are refused."""
_MAX_DIRECTIVE = 4096

KEYWORDS = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"}
    | {"ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)
"""Every instruction of the language."""

_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=(.*)", re.DOTALL)
_ONBUILD = re.compile(r"^([ \t]*)(ONBUILD)([ \t]+)(RUN|COPY|ADD)(?=[ \t])", re.IGNORECASE | re.MULTILINE)
_ONBUILD_HEREDOC = re.compile(_ONBUILD.pattern + ".*<<", re.IGNORECASE | re.MULTILINE)
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: `content` as written (before `<<-` strips tabs), `expand` unless the word was quoted."""

    name: str
    content: str
    chomp: bool
    expand: bool

    @property
    def data(self) -> str:
        """The content with leading tabs stripped when `<<-` asks for it."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction as text: `keyword` in upper case, `spelled` as written, `text` with continuations joined."""

    keyword: str
    spelled: str
    text: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    is_json: bool
    heredocs: tuple[Heredoc, ...]
    span: Span
    comment: str = ""
    """Of the line straight above it; "" for none. The directives are no comments."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile taken apart. `syntax` is kept for show only: no frontend is ever fetched or run."""

    nodes: tuple[Node, ...]
    escape: str = "\\"
    syntax: str | None = None
    checks: CheckOptions = field(default_factory=CheckOptions)
    warnings: tuple[Finding, ...] = ()


def read(data: bytes) -> Source:
    """Take a Dockerfile apart.

    Raises DockerfileError: DOCKERFILE_EMPTY, DOCKERFILE_TOO_LARGE or DOCKERFILE_SYNTAX.
    """
    text = _decode(data)
    directives = _directives(text)
    triggers = _Triggers(text)
    try:
        ast = parse_dockerfile_ast(triggers.hide(_guarded(text)))
    except DockerfileSyntaxError as e:
        raise _syntax_error(e) from None
    except RecursionError:
        raise DockerfileError("the Dockerfile is nested too deeply") from None
    except (ValueError, OverflowError) as e:
        raise DockerfileError(f"dockerfile parse error: {e}") from None
    if not ast.instructions:
        raise DockerfileError("file with no instructions", reason="DOCKERFILE_EMPTY", hint="begin with FROM")
    if len(ast.instructions) > MAX_INSTRUCTIONS:
        span = Span(ast.instructions[MAX_INSTRUCTIONS].start_line, ast.instructions[MAX_INSTRUCTIONS].end_line)
        message = f"the Dockerfile has more than {MAX_INSTRUCTIONS} instructions"
        raise DockerfileError(message, span=span, reason="DOCKERFILE_TOO_LARGE")
    check, lines = directives.get("check", ""), text.split("\n")
    return Source(
        nodes=tuple(triggers.reveal(_commented(_node(i), lines, len(directives))) for i in ast.instructions),
        escape=ast.escape_token,
        syntax=directives.get("syntax"),
        checks=CheckOptions.parse(check, Span(1, 1)),
        warnings=tuple(
            finding("NoEmptyContinuation", "Empty continuation line", Span(w.line, w.line)) for w in ast.warnings
        ),
    )


class _Triggers:
    """Heredocs of `ONBUILD RUN <<EOF`, which the parser reads only for RUN, COPY and ADD themselves.

    For it, `ONBUILD RUN` is written as RUN with a flag that is in no text; afterwards all is put back.
    """

    def __init__(self, text: str) -> None:
        self._needed = _ONBUILD_HEREDOC.search(text) is not None
        self._mark = "--onbuild"
        while self._mark in text:
            self._mark += "x"
        self._marked = re.compile(rf"(RUN|COPY|ADD)([ \t]+){self._mark}:([a-z]+)", re.IGNORECASE)

    def hide(self, text: str) -> str:
        if not self._needed:
            return text
        return _ONBUILD.sub(lambda m: f"{m[1]}{m[4]}{m[3]}{self._mark}:{m[2]}", text)

    def reveal(self, node: Node) -> Node:
        if not self._needed:
            return node
        heredocs = tuple(replace(h, name=self._back(h.name), content=self._back(h.content)) for h in node.heredocs)
        text = self._back(node.text)
        args = tuple(map(self._back, node.args))
        if not any(flag.startswith(self._mark) for flag in node.flags):
            return replace(node, text=text, args=args, heredocs=heredocs)
        spelled = text.split(None, 1)[0]
        return Node("ONBUILD", spelled, text, (), (), False, heredocs, node.span)

    def _back(self, text: str) -> str:
        return self._marked.sub(r"\3\2\1", text)


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        message = f"the Dockerfile has {len(data)} bytes; at most {MAX_BYTES} are allowed"
        raise DockerfileError(message, reason="DOCKERFILE_TOO_LARGE")
    if b"\0" in data:
        raise DockerfileError("the Dockerfile contains a NUL byte", hint="save the file as UTF-8 (is it UTF-16?)")
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    if not text.strip():
        raise DockerfileError("the Dockerfile cannot be empty", reason="DOCKERFILE_EMPTY")
    return text


def _directives(text: str) -> dict[str, str]:
    """The parser directives: leading lines `# name=value` with a known name."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _DIRECTIVE.fullmatch(line[:_MAX_DIRECTIVE].strip())
        if match is None or match[1].lower() not in {"syntax", "escape", "check"}:
            break
        found.setdefault(match[1].lower(), match[2].strip())
    return found


def _guarded(text: str) -> str:
    """Shorten the leading comments that are too long to be directives: the parser's directive pattern is quadratic."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if not line.lstrip().startswith("#"):
            break
        if len(line) > _MAX_DIRECTIVE:
            lines[at] = "#"
    return "\n".join(lines)


def _syntax_error(error: DockerfileSyntaxError) -> DockerfileError:
    line = error.line or 0
    message = str(error).partition(": ")[2]
    word = message.removeprefix("unknown instruction: ")
    if word != message:
        message = f"unknown instruction: {word[:200]}{did_you_mean(word, KEYWORDS)}"
    if not line:
        return DockerfileError(f"dockerfile parse error: {message}")
    return parse_error(message, Span(line, line))


def _node(instruction: DockerfileInstruction) -> Node:
    text = _clean(instruction.original.strip())
    span = Span(instruction.start_line, max(instruction.start_line, instruction.end_line))
    args = tuple(_clean(a) for a in instruction.args)
    if any("\0" in a for a in args):
        raise parse_error("an argument contains a NUL character", span)
    return Node(
        keyword=instruction.name,
        spelled=text.split(None, 1)[0],
        text=text,
        flags=tuple(instruction.flags),
        args=args,
        is_json=instruction.json,
        heredocs=tuple(Heredoc(h.name, h.content, h.chomp, h.expand) for h in instruction.heredocs),
        span=span,
    )


def _commented(node: Node, lines: list[str], directives: int) -> Node:
    """The node with the comment above it; the first lines are directives."""
    above = node.span.start - 2
    if node.keyword not in {"FROM", "ARG"} or above < directives:
        return node
    line = lines[above].strip()
    return replace(node, comment=line[1:].strip()) if line.startswith("#") else node


def _clean(text: str) -> str:
    """JSON escapes can make lone surrogates, which no file or process takes; Go's decoder replaces them too."""
    return _SURROGATES.sub("\ufffd", text)
