"""Row 8: streams that are opened and cut, and archives that are bombs. The daemon stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from backports import zstd

from tests.e2e.security.lab import Lab
from tests.e2e.security.test_isolation import _running
from tests.support.cut_streams import KINDS, SLEEPS, open_and_cut
from tests.support.daemon import Daemon, until

CYCLES = {"logs": 1000, "attach": 1000, "exec": 250}
"""A process for each exec takes its time."""

GROWTH = 24 << 20
"""Bytes of RSS: what the allocators keep. A leak of one cycle's buffers would be more than ten times that."""
TALK = "i=0; while :; do i=$((i+1)); echo line $i of many; sleep 0.05; done"


class State(NamedTuple):
    """What a leak of the daemon would be seen by."""

    descriptors: int
    threads: int
    children: int
    tasks: int

    @classmethod
    def of(cls, daemon: Daemon) -> State:
        at = Path(f"/proc/{daemon.pid}")
        with urllib.request.urlopen(f"http://{daemon.metrics_address}/metrics", timeout=10) as answer:
            (tasks,) = re.findall(r"^shoald_tasks (\d+)", answer.read().decode(), re.M)
        children = (at / f"task/{daemon.pid}/children").read_text().split()
        return cls(len(os.listdir(at / "fd")), len(os.listdir(at / "task")), len(children), int(tasks))

    def more_than(self, before: State) -> list[tuple[str, int, int]]:
        """What there is more of. Pools of threads grow for a while, up to their limits."""
        spare = State(descriptors=2, threads=10, children=0, tasks=1)
        each = zip(self._fields, self, before, spare, strict=True)
        return [(name, now, then) for name, now, then, extra in each if now > then + extra]


def _resident(pid: int) -> int:
    (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(kib) << 10


def _sleepers(lab: Lab, name: str) -> int:
    return lab.fleet.shoal("top", name).stdout.count(SLEEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_opened_and_cut(host: Lab, kind: str, busybox: str) -> None:
    daemon = host.fleet.first
    with _running(host, busybox, "-i", script=TALK) as name:
        # What is made once and kept (caches, threads of pools) is there after some rounds.
        asyncio.run(open_and_cut(host.fleet, kind, name, 40))
        until(lambda: not _sleepers(host, name), 60, "abandoned processes end")
        # The calls that were cut last may still be coming to their ends.
        before = min((State.of(daemon) for _ in range(20)), key=lambda state: (state.tasks, state.descriptors))
        memory = _resident(daemon.pid)
        asyncio.run(open_and_cut(host.fleet, kind, name, CYCLES[kind]))
        until(lambda: not _sleepers(host, name), 120, "abandoned processes end")
        until(lambda: State.of(daemon).more_than(before) == [], 60, f"no more than {before}")
        assert _resident(daemon.pid) - memory < GROWTH
        left = list(daemon.run_dir.glob("*/exec-*"))
        until(lambda: not list(daemon.run_dir.glob("*/exec-*/attach")), 60, f"nothing of {left[:3]}")
        assert host.fleet.shoal("exec", name, "echo", "serves").stdout == "serves\n"


# --- bombs ------------------------------------------------------------------------------------------------------------


def _bomb(gigabytes: int) -> bytes:
    """A tar of one file of zeros, squeezed to a twenty-thousandth and less."""
    packer = zstd.ZstdCompressor(level=19)
    info = tarfile.TarInfo("zeros")
    info.size = gigabytes << 30
    piece = bytes(1 << 22)
    parts = [packer.compress(info.tobuf())]
    parts += [packer.compress(piece) for _ in range(gigabytes << 8)]
    return b"".join([*parts, packer.compress(bytes(1024)), packer.flush()])


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Some hundred kilobytes that are three gigabytes of disk."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.tar.zst"
    path.write_bytes(_bomb(3))
    assert path.stat().st_size < 3 << 30 >> 14
    yield path
    path.unlink()


def test_a_bomb_for_a_volume(host: Lab, bomb: Path) -> None:
    free = shutil.disk_usage(host.fleet.first.root).free
    done = host.fleet.shoal("volume", "import", "bombed", bomb, code=None)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "bombed" not in host.fleet.shoal("volume", "ls", "-q").stdout.split()
    until(lambda: shutil.disk_usage(host.fleet.first.root).free > free - (512 << 20), 60, "its disk is given back")


def test_a_bomb_for_a_container(host: Lab, bomb: Path, busybox: str) -> None:
    """`cp -` ends where the archive grows out of proportion."""
    with _running(host, busybox, script="sleep 600") as name, bomb.open("rb") as archive:
        done = subprocess.run(
            host.fleet.command("cp", "-", f"{name}:/tmp"),
            stdin=archive,
            capture_output=True,
            text=True,
            env=host.fleet.environment(),
            timeout=120,
        )
        (view,) = json.loads(host.fleet.shoal("inspect", "-s", name).stdout)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert view["SizeRw"] < 2 << 30


def test_a_client_that_sends_for_ever_into_a_limit(host: Lab, busybox: str) -> None:
    """A copy into a small tmpfs ends with the file system's word, and the daemon's memory stays."""
    pid = host.fleet.first.pid
    with _running(host, busybox, "--tmpfs", "/small:size=4m", script="sleep 600") as name:
        memory = _resident(pid)
        info = tarfile.TarInfo("big")
        info.size = 1 << 30
        with subprocess.Popen(
            host.fleet.command("cp", "-", f"{name}:/small"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=host.fleet.environment(),
        ) as client:
            assert client.stdin is not None
            assert client.stderr is not None
            with contextlib.suppress(BrokenPipeError):
                client.stdin.write(info.tobuf())
                for _ in range(256):
                    client.stdin.write(bytes(1 << 22))
            with contextlib.suppress(BrokenPipeError):
                client.stdin.close()
            error = client.stderr.read().decode()
            assert client.wait(60) != 0
        assert "space" in error.lower()
        assert _resident(pid) - memory < GROWTH
