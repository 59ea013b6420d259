"""A real daemon under attack: hostile images, containers, and what of the host must never change."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.daemon import Fleet
from tests.support.docker_registry import DockerRegistry
from tests.support.images import BUSYBOX_CONFIG, push_image_sync
from tests.support.layers import Layer, busybox_layer

REFUSED = 125
"""Exit code of `shoal run` when the container was never started."""

PROGRAMS = Path(__file__).parent / "programs"


@dataclass
class Lab:
    """One host (h1) with copies of the runtime's programs, so that a successful attack hits nothing else."""

    fleet: Fleet
    registry: DockerRegistry
    runtime: Path
    programs: tuple[Path, ...]
    """All that runs on the host for a container, as files whose content must stay."""
    _names: itertools.count[int] = field(default_factory=itertools.count)

    def image(self, *layers: Layer, config: Mapping[str, Any] | None = None, base: bool = True) -> str:
        """Push an image of these layers, above busybox unless `base` is false; its reference."""
        stack = [busybox_layer(), *layers] if base else list(layers)
        name = f"attack{next(self._names)}-{os.path.basename(self.runtime)}:latest"
        merged = {**BUSYBOX_CONFIG, **(config or {})}
        return push_image_sync(self.registry.address, name, layers=stack, config=merged).reference

    def run(
        self, image: str, *command: str, options: Sequence[str] = (), code: int | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`shoal run --rm` in the foreground."""
        return self.fleet.shoal("run", "-q", "--rm", *options, image, *command, code=code, timeout=timeout)

    def sh(self, image: str, script: str, *options: str, code: int | None = 0) -> str:
        """What a shell script in a container prints."""
        return self.run(image, "sh", "-c", script, options=options, code=code).stdout

    def digests(self) -> dict[str, str]:
        """Of the programs that run as the host's root."""
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self.programs}

    def bundles(self) -> list[str]:
        """Containers that have something in the run directory."""
        return [name for name in os.listdir(self.fleet.first.run_dir) if len(name) == 64]


def compiled(source: str, target: Path, *flags: str) -> bytes:
    """Compile programs/`source` with gcc; the binary."""
    subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", target, PROGRAMS / source], check=True, cwd="/")
    return target.read_bytes()


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a run that was refused; AssertionError when it was not, or without a word."""
    assert done.returncode == REFUSED, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.strip(), "refused without a reason"
    assert "Traceback" not in done.stderr
    return done.stderr
