"""Builds: one context of many files, three stages of which two run side by side."""

from __future__ import annotations

import random
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.cases import Figures, around, rss
from bench.engines import Docker, Engine, Podman, Shoal

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


def in_daemon(engine: Shoal, context: Path, rounds: int) -> list[float]:
    """Seconds that the daemon works at an unchanged build, by its own metrics; the client's part is not in it."""
    _build(engine, context)
    figures = []
    for _ in range(rounds):
        before = _worked(engine)
        _build(engine, context)
        figures.append(_worked(engine) - before)
    return figures


def memory(engine: Engine, context: Path, idle: float) -> float:
    """Bytes of RSS that the daemon (of Docker: with containerd) has at the height of a build without cache, more than
    `idle`: what it had before its first build."""
    highest, over = [idle], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            highest.append(rss(engine.daemon_pids()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _build(engine, context, "--no-cache")
    finally:
        over.set()
        watcher.join()
    return max(highest) - idle


def make_packages(directory: Path, base: str) -> Path:
    """A context whose image installs packages of Debian and compiles with them."""
    directory.mkdir()
    (directory / "hello.c").write_text('#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n')
    (directory / "Dockerfile").write_text(
        f"FROM {base} AS make\n"
        "RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends gcc libc6-dev >/dev/null\n"
        "WORKDIR /src\nCOPY hello.c .\nRUN gcc -O2 -o hello hello.c && ./hello\n"
        f"FROM {base}\nCOPY --from=make /src/hello /usr/local/bin/hello\n"
    )
    return directory


def packages(engines: Sequence[Engine], context: Path, rounds: int) -> Figures:
    """Seconds of a build without cache that installs packages. Debian's mirror is part of it."""
    return around(engines, rounds, lambda engine: _build(engine, context, "--no-cache"))


def _worked(engine: Shoal) -> float:
    with urllib.request.urlopen(f"http://{engine.fleet.first.metrics_address}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("shoald_operation_seconds_sum") and 'build"' in line and 'ok"' in line:
                return float(line.split()[-1])
    raise RuntimeError("the daemon has no time of builds")


def _build(engine: Engine, context: Path, *flags: str) -> float:
    if isinstance(engine, Docker):
        engine.environment["DOCKER_BUILDKIT"] = "1"
    if isinstance(engine, Podman):
        # Its cache is off unless one asks for it.
        flags = (*engine.run_flags, "--tls-verify=false", *([] if flags else ["--layers"]), *flags)
    return engine.seconds("build", "-q", "-t", "bench:build", *flags, str(context))
