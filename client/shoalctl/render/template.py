"""`--format '{{.ID}}\\t{{json .Labels}}'`: the part of Go's templates that people use with docker.

    {{.Field}} {{.A.B}} {{.}}           fields, also nested; {{.}} is the whole object as JSON
    {{json .Field}} {{upper .Field}} {{lower .Field}} {{len .Field}} {{join .Field ", "}} {{index .Field "key"}}
    {{println .Field}} {{"literal"}}    \\t and \\n outside of braces are a tab and a newline

There are no pipes, conditions or loops. docs/cli.md has it for users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoalctl.flags.fault import UsageFault

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|[^\s"`]+')
_FIELD = re.compile(r"\.(?:[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)?")
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\\\": "\\", '\\"': '"'}


class FreeMap(dict[str, Any]):
    """A map whose keys are data (labels, attributes, ports): a field that it lacks is empty, not an error."""


Part = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. `fields` are the names of the fields it shows, in order."""

    parts: tuple[Part, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template. Raises UsageFault that names the action it does not know."""
        parts: list[Part] = []
        fields: list[str] = []
        at = 0
        for found in _ACTION.finditer(text):
            parts.append(_literal(_unescaped(text[at : found.start()])))
            action, used = _action(found[1])
            parts.append(action)
            fields += used
            at = found.end()
        rest = text[at:]
        if "{{" in rest or "}}" in rest:
            raise _unknown(rest)
        parts.append(_literal(_unescaped(rest)))
        return cls(tuple(parts), tuple(fields))

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one object. Raises UsageFault for a field that the object does not have."""
        return "".join(part(row) for part in self.parts)


def _action(text: str) -> tuple[Part, list[str]]:
    words = _WORD.findall(text)
    if not words:
        raise _unknown(text)
    first, *rest = words
    if first[0] in '"`' and not rest:
        return _literal(_string(first)), []
    if first.startswith(".") and not rest:
        path = _path(first)
        return lambda row: _text(_lookup(row, path)), ([path[-1]] if path else [])
    if first in _FUNCTIONS and rest and rest[0].startswith("."):
        function, most = _FUNCTIONS[first]
        path, words = _path(rest[0]), rest[1:]
        if len(words) > most or "|" in words:
            raise _unknown(text)
        arguments = [_argument(word) for word in words]
        return lambda row: function(_lookup(row, path), *arguments), ([path[-1]] if path else [])
    raise _unknown(text)


def _path(word: str) -> tuple[str, ...]:
    if not _FIELD.fullmatch(word):
        raise _unknown(word)
    return tuple(filter(None, word.split(".")))


def _lookup(row: Any, path: Sequence[str]) -> Any:
    value = row
    for name in path:
        if isinstance(value, FreeMap):
            value = value.get(name)
            continue
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else "none here"
            raise UsageFault(f"the format names an unknown field {'.' + name!r}", hint=f"there are {known}")
        value = value[name]
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_text, value))}]"
    return str(value)


def _join(value: Any, separator: str = "") -> str:
    if not isinstance(value, list | tuple | None):
        raise UsageFault(f"the format joins {_text(value)[:60]!r}, which is no list")
    return separator.join(map(_text, value or ()))


def _len(value: Any) -> str:
    if not isinstance(value, str | list | tuple | Mapping | None):
        raise UsageFault(f"the format asks for the length of {_text(value)[:60]!r}, which has none")
    return str(len(value or ()))


def _index(value: Any, *keys: Any) -> str:
    for key in keys:
        try:
            value = value[int(key)] if isinstance(value, list | tuple) else value.get(key, "")
        except (ValueError, IndexError, AttributeError):
            raise UsageFault(f"the format's index {key!r} does not exist") from None
    return _text(value)


_MANY = 100
_FUNCTIONS: dict[str, tuple[Callable[..., str], int]] = {
    "json": (lambda value: json.dumps(value, ensure_ascii=False), 0),
    "upper": (lambda value: _text(value).upper(), 0),
    "lower": (lambda value: _text(value).lower(), 0),
    "len": (_len, 0),
    "println": (lambda value: _text(value) + "\n", 0),
    "print": (lambda value: _text(value), 0),
    "join": (_join, 1),
    "index": (_index, _MANY),
}
"""Each with how many words it takes after its field."""


def _argument(word: str) -> str:
    return _string(word) if word[0] in '"`' else word


def _string(word: str) -> str:
    return word[1:-1] if word[0] == "`" else _unescaped(word[1:-1])


def _unescaped(text: str) -> str:
    return re.sub(r"\\[tn\\\"]", lambda found: _ESCAPES[found[0]], text)


def _literal(text: str) -> Part:
    return lambda _row: text


def _unknown(text: str) -> UsageFault:
    return UsageFault(
        f"the format has {text[:60]!r}, which is not understood",
        hint="fields {{.Name}}, {{json .Name}}, upper, lower, len, join, index; see docs/cli.md",
    )
