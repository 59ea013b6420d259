"""Builds: one context of many files, three stages of which two run side by side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from bench.cases import Figures, around
from bench.engines import Docker, Engine, Podman

_DIRECTORIES = 100


def make_context(directory: Path, base: str, files: int, megabytes: int) -> Path:
    """A directory with a Dockerfile, half of the files in `src`, half in `assets`."""
    source = random.Random(2)
    each = megabytes * 1_000_000 // files
    for part in ("src", "assets"):
        for number in range(files // 2):
            place = directory / part / f"{number % _DIRECTORIES:02d}"
            place.mkdir(parents=True, exist_ok=True)
            size = each * 4 if number % 8 == 0 else each * 4 // 7
            (place / f"{number:05d}").write_bytes(source.randbytes(size // 2) + b"shoal " * (size // 12))
    (directory / "Dockerfile").write_text(
        f"FROM {base} AS code\nCOPY src /src\nRUN sleep 1 && ls -R /src > /src/list\n"
        f"FROM {base} AS data\nCOPY assets /assets\nRUN sleep 1 && ls -R /assets > /assets/list\n"
        f'FROM {base}\nCOPY --from=code /src /src\nCOPY --from=data /assets /assets\nCMD ["true"]\n'
    )
    return directory


def measure(engines: Sequence[Engine], context: Path, rounds: int) -> dict[str, Figures]:
    """Seconds without a cache, unchanged, and with one small file changed; from the command line."""
    changes = iter(range(1_000_000))

    def changed(engine: Engine) -> float:
        (context / "src" / "00" / "00000").write_text(f"change {next(changes)}\n")
        return _build(engine, context)

    return {
        "no_cache": around(engines, rounds, lambda engine: _build(engine, context, "--no-cache")),
        "unchanged": around(engines, rounds, lambda engine: _build(engine, context)),
        "changed": around(engines, rounds, changed),
    }


def _build(engine: Engine, context: Path, *flags: str) -> float:
    if isinstance(engine, Docker):
        engine.environment["DOCKER_BUILDKIT"] = "1"
    if isinstance(engine, Podman):
        # Its cache is off unless one asks for it.
        flags = (*engine.run_flags, "--tls-verify=false", *([] if flags else ["--layers"]), *flags)
    return engine.seconds("build", "-q", "-t", "bench:build", *flags, str(context))
