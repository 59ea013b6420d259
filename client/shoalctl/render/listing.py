"""Lists of things of several hosts: a table, JSON lines, a template, or only ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoalctl.render import console
from shoalctl.render.table import table
from shoalctl.render.template import Template

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading and the field that it shows."""

    heading: str
    field: str


@dataclass(frozen=True, slots=True)
class Listing:
    """How to show rows. `format` is empty or `table`, `json`, a template, or `table TEMPLATE`; `ids` is what -q shows.

    `several`: more than one host was asked, so that a table begins with the host.
    """

    columns: Sequence[Column]
    ids: str
    format: str = ""
    quiet: bool = False
    several: bool = False

    def check(self) -> None:
        """Raises UsageFault when the format can't be understood; before any host is asked."""
        if self._template is not None:
            Template.parse(self._template)

    def show(self, rows: Sequence[Row]) -> None:
        """Print the rows to standard output."""
        for line in self.lines(rows):
            console.out(line)

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The lines that `show` prints."""
        if self.quiet:
            return [str(row[self.ids]) for row in rows]
        if self.format == "json":
            return [json.dumps(row, ensure_ascii=False) for row in rows]
        if self._template is None:
            return self._table(rows)
        template = Template.parse(self._template)
        if not self.format.startswith("table"):
            return [template.render(row) for row in rows]
        headings = {column.field: column.heading for column in self.columns} | {"Host": "HOST"}
        head = [headings.get(field, _heading(field)) for field in template.fields]
        return table(head, [[str(_plain(row, field)) for field in template.fields] for row in rows])

    @property
    def _template(self) -> str | None:
        text = self.format.removeprefix("table").strip() if self.format.startswith("table") else self.format
        return text if text and text != "json" else None

    def _table(self, rows: Sequence[Row]) -> list[str]:
        columns = [Column("HOST", "Host"), *self.columns] if self.several else list(self.columns)
        return table([column.heading for column in columns], [[str(row[c.field]) for c in columns] for row in rows])


def _heading(field: str) -> str:
    return "".join(
        f" {c}" if c.isupper() and at and not field[at - 1].isupper() else c for at, c in enumerate(field)
    ).upper()


def _plain(row: Row, field: str) -> Any:
    from shoalctl.flags.fault import UsageFault

    if field not in row:
        raise UsageFault(f"the format names an unknown field {'.' + field!r}", hint=f"there are {', '.join(row)}")
    return row[field]
