"""Hostile builds with `shoal build` on the lab's host."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.security.lab import Lab


class Builder:
    """Builds Dockerfiles in directories of its own."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self._numbers = itertools.count()

    def build(
        self, dockerfile: str, files: Mapping[str, bytes] | None = None, *, tag: str = "", code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Build a Dockerfile in a context of these files, nothing from the cache."""
        context = self._directory / f"context{next(self._numbers)}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile)
        for name, content in (files or {}).items():
            (context / name).write_bytes(content)
        named = ("-t", tag) if tag else ()
        return self.lab.fleet.shoal("build", "--no-cache", "--progress", "plain", *named, context, code=code)

    def from_stdin(self, archive: bytes) -> subprocess.CompletedProcess[bytes]:
        """`shoal build -`: the context is this tar."""
        fleet = self.lab.fleet
        return subprocess.run(
            fleet.command("build", "--no-cache", "--progress", "plain", "-"),
            input=archive,
            capture_output=True,
            env=fleet.environment(),
            timeout=120,
        )

    def step(self, image: str, script: str) -> str:
        """What a script prints in a RUN step upon this image."""
        tag = f"built{next(self._numbers)}:latest"
        lines = "; ".join(line.strip() for line in script.strip().splitlines())
        self.build(f"FROM {image}\nRUN ( {lines} ) > /seen 2>&1 || true\n", tag=tag)
        try:
            return self.lab.run(tag, "cat", "/seen", options=("--pull", "never"), code=0).stdout
        finally:
            self.lab.fleet.shoal("rmi", "-f", tag, code=None)
