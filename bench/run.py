"""The benchmark: engines side by side, medians and ratios. Root only; see `python -m bench --help`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import builds, cases, containers, engines, images
from bench.engines import Docker, Engine
from bench.report import Report, Row, Target
from tests.support.debian import push_debian
from tests.support.docker_registry import docker_registry

DOCS = Path(__file__).parents[1] / "docs"
MB = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of each measurement (default: 15)")
    parser.add_argument("--pulls", type=int, default=5, help="rounds of the pull (default: 5)")
    parser.add_argument("--megabytes", type=int, default=300, help="size of the image that is pulled")
    parser.add_argument("--files", type=int, default=20_000, help="files in that image")
    parser.add_argument("--many", type=int, default=100, help="containers for ps and stats (default: 100)")
    parser.add_argument("--output", type=int, default=200, help="megabytes of a container's output (default: 200)")
    parser.add_argument("--cycles", type=int, default=1000, help="streams of each kind to cut off (default: 1000)")
    parser.add_argument("--builds", type=int, default=5, help="rounds of each kind of build (default: 5)")
    parser.add_argument("--context", type=int, default=10_000, help="files of the build's context (default: 10000)")
    parser.add_argument(
        "--packages", type=int, default=3, help="rounds of the build with apt-get (default: 3; 0: none)"
    )
    parser.add_argument("--only", choices=["builds"], help="measure nothing else")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where storage goes (default: /var/tmp)")
    parser.add_argument("--tmpfs", action="store_true", help="keep all storage on a tmpfs: no disk in the figures")
    parser.add_argument("--without", action="append", default=[], choices=["docker", "podman"], help="leave a peer out")
    parser.add_argument("--no-write", action="store_true", help="print the page instead of writing docs/benchmarks.md")
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("run it as root: it starts containers")
    wanted = [name for name in ("docker", "podman") if name not in given.without]
    with storage(given.dir, tmpfs=given.tmpfs) as directory, ExitStack() as stack:
        registry = stack.enter_context(docker_registry(directory / "registry"))
        measured: list[Engine] = [stack.enter_context(engines.shoal(directory))]
        notes = []
        for name, program, start in (("docker", "dockerd", engines.docker), ("podman", "podman", engines.podman)):
            if name in wanted and shutil.which(program):
                measured.append(stack.enter_context(start(directory)))
            elif name in wanted:
                notes.append(f"{name} is not installed here: `make bench-peers` installs it.")
        kind = "tmpfs" if given.tmpfs else _file_system(given.dir)
        report = Report({engine.name: engine.version() for engine in measured}, kind, notes=notes)
        small = images.push_small(registry.address)
        _pull_first(measured, small)
        if not given.only:
            _measure(report, measured, small, given)
            _measure_containers(report, measured, small, given)
        _measure_builds(report, measured, small, directory, registry.address, given)
        if given.only:
            print(report.markdown())
            return 0
        print("making the image of the pull...", flush=True)
        big = images.push_big(registry.address, given.megabytes, given.files)
        title = f"pull of {given.megabytes} MB in {given.files} files, 3 layers and a base"
        report.add(Row("pull", title, "s", cases.pull(measured, big, given.pulls), Target(0.7, "docker")))
    if given.no_write:
        print(report.markdown())
    else:
        report.write(DOCS)
    for title in report.failed():
        print(f"target missed: {title}", file=sys.stderr)
    return 1 if report.failed() else 0


def _measure(report: Report, measured: list[Engine], small: str, given: argparse.Namespace) -> None:
    ms = 1000.0
    count = 20
    memory = cases.memory(measured, small, count)
    idle = {name: [found["idle"] / MB] for name, found in memory.items() if found["idle"]}
    each = {name: [found["per_container"] / MB] for name, found in memory.items()}
    report.add(Row("rss_idle", "RSS of the idle daemon", "MB", idle, Target(90)))
    report.add(Row("rss_container", f"RSS for each of {count} containers, monitor included", "MB", each, Target(3)))
    run = scaled(cases.cli_run(measured, small, given.rounds), ms)
    report.add(Row("run", "`run --rm busybox true`", "ms", run, Target(0.65, "docker")))
    start = scaled(cases.api_start(measured, small, given.rounds), ms)
    report.add(Row("start", "request to RUNNING, open connection", "ms", start, Target(60)))
    burst = scaled(cases.burst(measured, small, max(3, given.rounds // 3)), ms)
    report.add(Row("burst", f"{cases.BURST} containers at once", "ms", burst, Target(0.5, "docker")))
    report.add(Row("ps", "`ps`", "ms", scaled(cases.cli(measured, given.rounds, "ps"), ms), Target(160)))
    help_ = scaled(cases.cli(measured, given.rounds, "--help"), ms)
    report.add(Row("help", "`--help`", "ms", help_, Target(70)))
    shoal = [engine for engine in measured if engine.name == "shoal"]
    listed = scaled(cases.cli(shoal, given.rounds, "host", "list"), ms)
    report.add(Row("host_list", "`host list` (asks no host)", "ms", listed, Target(70)))


def _measure_containers(report: Report, measured: list[Engine], small: str, given: argparse.Namespace) -> None:
    ms = 1000.0
    few = max(3, given.rounds // 3)
    run = scaled(containers.cli_exec(measured, small, given.rounds), ms)
    report.add(Row("exec", "`exec CONTAINER true`", "ms", run, Target(0.7, "docker")))
    title = f"{given.output} MB of output through `logs -f`, none lost"
    output = containers.output(measured, small, given.output, few)
    report.add(Row("output", title, "s", output, Target(1.0, "docker")))
    for key, command in (("ps_many", ("ps",)), ("stats_many", ("stats", "--no-stream"))):
        figures = containers.growth(measured, small, given.many, few, *command)
        title = f"`{' '.join(command)}` with {given.many} containers, in times of that with one"
        report.add(Row(key, title, "×", figures, Target(1.3)))
    shoal = next(engine for engine in measured if isinstance(engine, engines.Shoal))
    for what, more in containers.cut_streams(shoal, small, given.cycles).items():
        limit, unit, by = {"descriptors": (5, "", 1), "threads": (10, "", 1), "rss": (25, "MB", MB)}[what]
        title = f"{what} more after {given.cycles} attach, logs and exec each were cut"
        report.add(Row(f"cut_{what}", title, unit, {"shoal": [more / by]}, Target(limit)))


def _measure_builds(
    report: Report, measured: list[Engine], small: str, directory: Path, registry: str, given: argparse.Namespace
) -> None:
    files, megabytes = given.context, given.context * 136 // 10_000
    context = builds.make_context(directory / "context", small, files, megabytes)
    title = f"build of {files} files and {megabytes} MB in three stages, "
    idle = {engine.name: cases.rss(engine.daemon_pids()) for engine in measured}
    targets = {"no_cache": 0.8, "unchanged": 1.0, "changed": 0.5}
    names = {"no_cache": "without cache", "unchanged": "unchanged", "changed": "one small file changed"}
    for key, figures in builds.measure(measured, context, given.builds).items():
        report.add(Row(f"build_{key}", title + names[key], "s", figures, Target(targets[key], "docker")))
    shoal = next(engine for engine in measured if isinstance(engine, engines.Shoal))
    inside = {"shoal": [figure * 1000 for figure in builds.in_daemon(shoal, context, given.builds)]}
    report.add(Row("build_in_daemon", title + "unchanged, in the daemon", "ms", inside, Target(80)))
    daemons = [engine for engine in measured if engine.daemon_pids()]
    more = {engine.name: [builds.memory(engine, context, idle[engine.name]) / MB] for engine in daemons}
    report.add(Row("build_rss", title + "without cache: RSS more at its height", "MB", more, Target(150)))
    if given.packages:
        context = builds.make_packages(directory / "packages", push_debian(registry))
        figures = builds.packages(measured, context, given.packages)
        title = "build that installs gcc with apt-get, without cache"
        report.add(Row("build_packages", title, "s", figures, Target(1.0, "docker")))


def scaled(figures: cases.Figures, factor: float) -> cases.Figures:
    """All figures times a factor."""
    return {name: [figure * factor for figure in each] for name, each in figures.items()}


def _pull_first(measured: Sequence[Engine], reference: str) -> None:
    for engine in measured:
        flags = [] if isinstance(engine, Docker) or engine.name == "shoal" else ["--tls-verify=false"]
        engine.run("pull", "-q", *flags, reference)


def _file_system(directory: Path) -> str:
    command = ["findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)]
    return str(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


@contextlib.contextmanager
def storage(parent: Path, *, tmpfs: bool) -> Iterator[Path]:
    """A directory for everything, on disk or on a tmpfs of its own."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-bench-", dir=parent))
    directory.chmod(0o711)
    if tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=75%,mode=0711", "shoal-bench", directory], check=True)
    try:
        yield directory
    finally:
        engines.unmount_below(directory)
        if tmpfs:
            subprocess.run(["umount", "-l", directory], check=True)
        shutil.rmtree(directory, ignore_errors=True)
