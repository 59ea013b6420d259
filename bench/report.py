"""The results as a page for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.cases import median


@dataclass(frozen=True)
class Target:
    """What shoal promises: at most so much of a unit, or of a peer's figure."""

    limit: float
    versus: str = ""

    def text(self, unit: str) -> str:
        """For the table."""
        return f"≤ {self.limit:g} × {self.versus}" if self.versus else f"≤ {self.limit:g} {unit}"

    def holds(self, values: Mapping[str, float]) -> bool | None:
        """Whether it is met; None where the peer was not measured."""
        if self.versus:
            return values["shoal"] / values[self.versus] <= self.limit if values.get(self.versus) else None
        return values["shoal"] <= self.limit


@dataclass
class Row:
    """One measurement: figures of each engine in `unit`."""

    key: str
    title: str
    unit: str
    figures: dict[str, list[float]]
    target: Target | None = None

    @property
    def values(self) -> dict[str, float]:
        """Medians."""
        return {name: median(figures) for name, figures in self.figures.items() if figures}


@dataclass
class Report:
    """A whole run."""

    versions: dict[str, str]
    storage: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """One more; printed at once."""
        self.rows.append(row)
        print(
            f"{row.title}: " + ", ".join(f"{name} {value:.4g} {row.unit}" for name, value in row.values.items()),
            flush=True,
        )

    def failed(self) -> list[str]:
        """Titles of targets that are missed."""
        return [row.title for row in self.rows if row.target and row.target.holds(row.values) is False]

    def markdown(self) -> str:
        """The page."""
        engines = list(self.versions)
        lines = [
            "# Benchmarks",
            "",
            "`make bench` writes this page (`make bench-peers` installs the peers first). All engines run on the same",
            "machine in the same run, in turns, with the same images from the same registry on loopback; figures are",
            "medians. Trust the ratios more than the absolute figures.",
            "",
            f"Measured on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} processors, Linux {platform.release()}, "
            f"Python {platform.python_version()}, storage on {self.storage}; "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items())
            + ".",
            "",
            "| measurement | unit | " + " | ".join(engines) + " | shoal / docker | shoal / podman | target | met |",
            "|---|---|" + "---:|" * (len(engines) + 2) + "---|---|",
        ]
        lines += [self._line(row, engines) for row in self.rows]
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def _line(self, row: Row, engines: list[str]) -> str:
        values = row.values
        cells = [row.title, row.unit, *(f"{values[name]:.4g}" if name in values else "" for name in engines)]
        for peer in ("docker", "podman"):
            cells.append(f"{values['shoal'] / values[peer]:.2f}" if values.get(peer) else "")
        met = row.target.holds(values) if row.target else None
        cells += [row.target.text(row.unit) if row.target else "", {True: "yes", False: "**no**", None: ""}[met]]
        return "| " + " | ".join(cells) + " |"

    def json(self) -> str:
        """All figures."""
        document = {
            "versions": self.versions,
            "storage": self.storage,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
            "rows": [
                {"key": row.key, "unit": row.unit, "medians": row.values, "figures": row.figures} for row in self.rows
            ],
        }
        return json.dumps(document, indent=1) + "\n"

    def write(self, directory: Path) -> None:
        """benchmarks.md and benchmarks.json."""
        (directory / "benchmarks.md").write_text(self.markdown())
        (directory / "benchmarks.json").write_text(self.json())
