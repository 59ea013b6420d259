"""Measurements of running containers: exec, lists and figures of many, output, and streams that are cut."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.cases import Figures, around, median, rss
from bench.engines import Docker, Engine, Shoal
from tests.support.cut_streams import KINDS, SLEEPS, open_and_cut
from tests.support.daemon import until

LINE = 100  # bytes, the newline included


@contextmanager
def running(engines: Sequence[Engine], image: str, count: int = 1) -> Iterator[list[str]]:
    """So many containers that sleep, in each engine; their names."""
    names = [f"bench{number}" for number in range(count)]
    for engine in engines:
        for name in names:
            engine.run("run", "-d", "--name", name, *engine.run_flags, image, "sleep", "100000")
    try:
        yield names
    finally:
        for engine in engines:
            engine.remove_containers()


def cli_exec(engines: Sequence[Engine], image: str, rounds: int) -> Figures:
    """`exec C true` from the command line."""
    with running(engines, image) as (name,):
        return around(engines, rounds, lambda engine: engine.seconds("exec", name, "true"))


def growth(engines: Sequence[Engine], image: str, many: int, rounds: int, *command: str) -> Figures:
    """How many times longer a command takes with `many` containers than with one."""
    figures: list[Figures] = []
    for count in (1, many):
        with running(engines, image, count):
            figures.append(around(engines, rounds, lambda engine: engine.seconds(*command)))
    few, all_ = figures
    return {engine.name: [median(all_[engine.name]) / median(few[engine.name])] for engine in engines}


def output(engines: Sequence[Engine], image: str, megabytes: int, rounds: int) -> Figures:
    """Seconds until so much output has come whole through `logs -f`. Raises RuntimeError when a byte is missing."""
    size = megabytes * 1_000_000
    script = f"sleep 1; yes $(printf %0{LINE - 1}d 0) | head -c {size}"

    def once(engine: Engine) -> float:
        engine.run("run", "-d", "--name", "chatty", *engine.run_flags, image, "sh", "-c", script)
        begun = time.perf_counter()
        # A pipe to another process, as in real use; wc counts faster than any engine writes.
        with subprocess.Popen(
            engine.command("logs", "-f", "chatty"), stdout=subprocess.PIPE, env=engine.environment
        ) as follower:
            done = subprocess.run(["wc", "-c"], stdin=follower.stdout, capture_output=True, text=True, check=True)
        taken = time.perf_counter() - begun - 1.0
        engine.run("rm", "-f", *engine.rm_flags, "chatty")
        if follower.returncode != 0 or int(done.stdout) != size:
            raise RuntimeError(f"{engine.name} lost output: {int(done.stdout)} of {size} bytes")
        return taken

    return around([engine for engine in engines if isinstance(engine, Shoal | Docker)], rounds, once)


def cut_streams(engine: Shoal, image: str, cycles: int) -> dict[str, float]:
    """What the daemon has more of after so many streams of each kind that were opened and cut: descriptors, threads
    and bytes of RSS."""
    pid = engine.daemon_pids()[0]
    with running([engine], image) as (name,):
        engine.run("rm", "-f", name)
        engine.run("run", "-d", "-i", "--name", name, image, "sh", "-c", "while :; do echo on; sleep 0.05; done")
        _cut(engine, name, 100)  # what is made once and kept
        before = _held(pid)
        _cut(engine, name, cycles)
        after = _held(pid)
    return {key: after[key] - before[key] for key in before}


def _cut(engine: Shoal, name: str, cycles: int) -> None:
    for kind in KINDS:
        asyncio.run(open_and_cut(engine.fleet, kind, name, cycles))
    until(lambda: SLEEPS not in engine.run("top", name), 120, "abandoned processes end")
    time.sleep(1)


def _held(pid: int) -> dict[str, float]:
    return {
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),
        "threads": float(len(os.listdir(f"/proc/{pid}/task"))),
        "rss": rss([pid]),
    }
