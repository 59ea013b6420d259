"""docs/dockerfile.md, made of tests/golden/reference: each row of it with what proves it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from shoal.ignore import Matcher
from tests.support.compatibility import state
from tests.support.dockerfile_plan import evaluate

ROOT = Path(__file__).parents[2]
PAGE, DATA = ROOT / "docs" / "dockerfile.md", ROOT / "tests" / "golden" / "reference"
REFERENCE = "https://docs.docker.com/reference/dockerfile/"
NOTHING = "(none)"
"""In `see`: there is no such thing."""
STATES = ("supported", "different", "out")
CASE_KEYS = frozenset({"lines", "dockerfile", "request", "see", "error"})
ROW_KEYS = CASE_KEYS | {
    *("form", "note", "says", "case", "elsewhere", "ignore", "left", "kept"),
    *("build", "out", "fails", "flags", "said"),
}

INTRO = """\
# The Dockerfile language

Everything that Docker's [reference of the language]({link}) and its
[build checks](https://docs.docker.com/reference/build-checks/) define, labs features included: **supported**,
**different** (and why), or **out** (and why). Each row has a small Dockerfile in tests/golden/reference and what must
come of it; tests go over all of them, and over this page, which is generated. How to build: [building](building.md).

"""


@dataclass(frozen=True)
class Case:
    """A Dockerfile that is planned, and what must be seen: values by path, or the error."""

    text: str
    request: Mapping[str, Any] = field(default_factory=dict)
    see: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Case | None:
        """None for a row without one; `lines` stand after FROM base."""
        if "lines" in table:
            text = f"FROM base\n{table['lines']}"
        elif "dockerfile" in table:
            text = table["dockerfile"]
        else:
            return None
        return cls(text, table.get("request", {}), table.get("see", {}), table.get("error", ""))

    def lies(self) -> Iterator[str]:
        """What is not as the case says."""
        if not self.see and not self.error:
            yield f"nothing is looked for in {self.text!r}"
        found = evaluate(self.text.encode(), self.request)
        message = found.get("error", {}).get("message", "")
        if (self.error not in message) if self.error else message:
            yield f"error: expected {self.error!r}, got {message!r}"
            return
        for path, wanted in self.see.items():
            value = looked_up(found, path.removesuffix("~"))
            held = wanted in str(value) if path.endswith("~") else value == wanted
            if not held:
                yield f"{path}: expected {wanted!r}, got {value!r}"


@dataclass(frozen=True)
class Row:
    """One form of the language. `build` is a stage that writes /out, `fails` one that ends the build."""

    section: str
    form: str
    note: str
    says: str
    cases: tuple[Case, ...]
    table: Mapping[str, Any]

    @property
    def state(self) -> str:
        """supported, different or out."""
        return state(self.note)

    @property
    def id(self) -> str:
        """For tests."""
        return f"{self.section}: {self.form}".replace("\n", " ")

    @property
    def proved(self) -> bool:
        """Whether anything proves it."""
        return bool(self.cases) or any(key in self.table for key in ("elsewhere", "ignore", "build", "fails"))

    def lies(self) -> Iterator[str]:
        """What is not as the row says, without a real build."""
        if unknown := set(self.table) - ROW_KEYS:
            yield f"unknown keys {unknown}"
        if not self.proved:
            yield "nothing proves it"
        for case in self.cases:
            yield from case.lies()
        if "elsewhere" in self.table:
            path, _, name = self.table["elsewhere"].partition("::")
            if name not in _functions(ROOT / path):
                yield f"{path} has no {name}"
        if "ignore" in self.table:
            rules = Matcher.parse(self.table["ignore"])
            yield from (f"{path} is sent" for path in self.table["left"] if not rules.excluded(path))
            yield from (f"{path} is not sent" for path in self.table["kept"] if rules.excluded(path))


@dataclass(frozen=True)
class Section:
    """A table of the page: `anchors` are the headings of the reference that it covers."""

    title: str
    anchors: tuple[str, ...]
    link: str
    rows: tuple[Row, ...]


@cache
def sections() -> tuple[Section, ...]:
    """All, in the order of the files."""
    return tuple(map(_section, sorted(DATA.glob("*.toml"))))


def rows() -> list[Row]:
    """Of all sections."""
    return [row for section in sections() for row in section.rows]


def _section(path: Path) -> Section:
    document = tomllib.loads(path.read_text())
    title, anchors = document["title"], tuple(document["anchors"])
    return Section(
        title,
        anchors,
        document.get("link") or f"{REFERENCE}#{anchors[0]}",
        tuple(_row(title, table) for table in document["row"]),
    )


def _row(section: str, table: Mapping[str, Any]) -> Row:
    more = table.get("case", [])
    if any(set(each) - CASE_KEYS for each in more):
        raise ValueError(f"{table['form']}: unknown keys of a case")
    cases = tuple(case for case in map(Case.of, (table, *more)) if case is not None)
    return Row(section, table["form"], table.get("note", ""), table.get("says", ""), cases, table)


def looked_up(found: Mapping[str, Any], path: str) -> Any:
    """A value of an evaluation: `step` is the target's last step, `steps` all of its, `env` the image's variables."""
    value: Any = {**found, **_shortcuts(found)}
    names = path.split(".")
    while names:
        name = names.pop(0)
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        else:
            return NOTHING
    return value


def _shortcuts(found: Mapping[str, Any]) -> dict[str, Any]:
    stages = list(found.get("stages", {}).values())
    steps = stages[-1]["steps"] if stages else []
    env = dict(entry.partition("=")[::2] for entry in found.get("config", {}).get("Env", []))
    return {"steps": steps, "step": steps[-1] if steps else {}, "env": env}


@cache
def _functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def page() -> str:
    """docs/dockerfile.md."""
    counts = dict.fromkeys(STATES, 0)
    for row in rows():
        counts[row.state] += 1
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    body = "\n\n".join(map(_table, sections()))
    return f"{INTRO.format(link=REFERENCE)}Of {len(rows())} rows: {summary}.\n\n{body}\n"


def _table(section: Section) -> str:
    lines = [f"## {section.title}", "", f"[Reference]({section.link})", "", "| | | |", "|---|---|---|"]
    for row in section.rows:
        why = row.note.partition(": ")[2] or row.says
        lines.append(f"| {_code(row.form)} | {row.state} | {_cell(why)} |")
    return "\n".join(lines)


def _code(form: str) -> str:
    """A form as code, unless it is prose: with code of its own, or some words in small letters."""
    text = _cell(form.replace("\t", " "))
    kind, colon, rest = text.partition(": ")
    if text.count("`") % 2:
        return f"`` {text} ``"
    if colon and kind.isalpha():
        return f"{kind}: {rest}" if "`" in rest else f"{kind}: `{rest}`"
    prose = "`" in text or (" " in text and re.fullmatch(r"[a-z][a-zA-Z ,0-9:'.-]+", text))
    return text if prose else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
