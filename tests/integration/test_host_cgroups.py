"""Cgroups of this machine, whatever their version."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.host import cgroups, mounts, trees
from shoald.host.cgroups import Cgroups, Mode
from shoald.host.controllers import MountedControllers, unmount_unused
from shoald.host.freezer import is_frozen, thaw
from shoald.host.process import spawn
from shoald.host.usage import Usage, cpu_time_us, oom_kills, read_usage

pytestmark = pytest.mark.root

CGROUP = f"/shoal-test-{os.getpid()}"


@pytest.fixture
async def found() -> AsyncIterator[Cgroups]:
    detected = cgroups.detect()
    try:
        yield detected
    finally:
        await cgroups.kill(detected, CGROUP)
        await cgroups.remove(detected, CGROUP)
        assert [path for path in detected.paths(CGROUP) if path.exists()] == []


def limit(found: Cgroups, controller: str, v1: str, v2: str, value: str, below: str = "") -> None:
    path = found.path(CGROUP + below, controller)
    assert path is not None
    (path / (v2 if found.mode is Mode.UNIFIED else v1)).write_text(value)


def enter_script(found: Cgroups, below: str) -> str:
    return "".join(f"echo $$ > '{path}/cgroup.procs'; " for path in found.paths(CGROUP + below))


@pytest.fixture
async def unified() -> AsyncIterator[Cgroups]:
    """The hierarchy of version 2 alone, with the controllers that version 1 left to it: few or none."""
    all_ = cgroups.detect()
    alone = Cgroups(Mode.UNIFIED, tuple(each for each in all_.hierarchies if each.version == 2))
    if not alone.hierarchies:
        pytest.skip("no cgroup2 is mounted")
    try:
        yield alone
    finally:
        await cgroups.kill(alone, CGROUP)
        await cgroups.remove(alone, CGROUP)


async def test_version_2_freezes_counts_kills_and_goes(unified: Cgroups) -> None:
    cgroups.create(unified, f"{CGROUP}/a")
    script = enter_script(unified, "/a") + "sleep 1000 & sleep 1000 & echo; while :; do :; done"
    async with await spawn(["sh", "-c", script], stdout=subprocess.PIPE) as child:
        await child.stdout.readexactly(1)
        assert len(cgroups.processes(unified, CGROUP)) == 3
        # Time is counted without any controller.
        while (counted := read_usage(unified, CGROUP).cpu_us or 0) < 10_000:
            await asyncio.sleep(0.02)
        assert (cpu_time_us(unified, CGROUP) or 0) >= counted
        assert not is_frozen(unified, f"{CGROUP}/a")
        (unified.paths(f"{CGROUP}/a")[0] / "cgroup.freeze").write_text("1")
        events = unified.paths(f"{CGROUP}/a")[0] / "cgroup.events"
        while "frozen 1" not in events.read_text():
            await asyncio.sleep(0.02)
        assert is_frozen(unified, f"{CGROUP}/a")
        thaw(unified, f"{CGROUP}/a")
        assert not is_frozen(unified, f"{CGROUP}/a")
        (unified.paths(f"{CGROUP}/a")[0] / "cgroup.freeze").write_text("1")
        # Here SIGKILL ends what is frozen, too.
        assert await cgroups.kill(unified, CGROUP)
        assert await child.wait() == -9
        assert "populated 0" in events.read_text()
    assert await cgroups.remove(unified, CGROUP) is True
    assert await cgroups.remove(unified, CGROUP) is False
    assert read_usage(unified, CGROUP) == Usage()


async def test_usage_and_limits(found: Cgroups) -> None:
    cgroups.create(found, f"{CGROUP}/a/b")
    cgroups.create(found, f"{CGROUP}/a/b")
    limit(found, "memory", "memory.limit_in_bytes", "memory.max", str(64 << 20))
    limit(found, "pids", "pids.max", "pids.max", "50")
    script = enter_script(found, "/a/b") + "sleep 1000 & sleep 1000 & echo; while :; do :; done"
    async with await spawn(["sh", "-c", script], stdout=subprocess.PIPE) as child:
        await child.stdout.readexactly(1)
        await asyncio.sleep(0.2)
        usage = read_usage(found, CGROUP)
        assert usage.memory_limit == 64 << 20
        assert usage.pids_limit == 50
        assert usage.pids == 3
        assert usage.memory is not None
        assert 0 < usage.memory < 64 << 20
        assert usage.cpu_us is not None
        assert usage.cpu_us > 10_000
        assert usage.oom_kills == 0
        assert len(cgroups.processes(found, CGROUP)) == 3
        assert await cgroups.kill(found, CGROUP)
        assert await child.wait() == -9
        assert cgroups.processes(found, CGROUP) == set()
    assert await cgroups.remove(found, CGROUP) is True
    assert await cgroups.remove(found, CGROUP) is False
    assert read_usage(found, CGROUP) == Usage()
    assert oom_kills(found, CGROUP) is None


async def test_kills_for_memory_are_counted(found: Cgroups) -> None:
    cgroups.create(found, CGROUP)
    limit(found, "memory", "memory.limit_in_bytes", "memory.max", str(8 << 20))
    script = enter_script(found, "") + "exec tail /dev/zero"
    async with await spawn(["sh", "-c", script]) as child:
        assert await child.wait() == -9
    assert oom_kills(found, CGROUP) == 1
    assert read_usage(found, CGROUP).oom_kills == 1


async def test_a_cgroup_in_use_is_not_removed(found: Cgroups) -> None:
    cgroups.create(found, CGROUP)
    async with await spawn(
        ["sh", "-c", enter_script(found, "") + "echo; exec sleep 1000"], stdout=subprocess.PIPE
    ) as child:
        await child.stdout.readexactly(1)
        with pytest.raises(FailedPrecondition) as caught:
            await cgroups.remove(found, CGROUP, timeout=0.1)
        assert caught.value.reason == "PATH_BUSY"
        assert child.returncode is None


async def test_paths_stay_below_the_root(found: Cgroups) -> None:
    for bad in ("/", "", "///"):
        with pytest.raises(InvalidArgument):
            await cgroups.remove(found, bad)
    for bad in ("..", "/a/../../b"):
        with pytest.raises(InvalidArgument):
            cgroups.create(found, bad)


def test_no_controller_is_left_to_version_2_on_a_hybrid_host() -> None:
    controllers = MountedControllers()
    try:
        mounted = controllers.mount()
        assert cgroups.mount_missing_v1_controllers() == []
        after = cgroups.detect()
        if after.mode is Mode.HYBRID:
            assert [one.controllers for one in after.hierarchies if one.version == 2] == [frozenset()]
        for name in mounted:
            (cgroups.ROOT / name / "left-by-another").mkdir()
            unmount_unused()
            assert (cgroups.ROOT / name / "tasks").exists()  # held by this "daemon"
    finally:
        controllers.close()
    unmount_unused()
    assert not any((cgroups.ROOT / name).exists() for name in mounted)


def test_remove_tree_refuses_what_is_mounted() -> None:
    area = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    (area / "tree" / "mounted").mkdir(parents=True)
    (area / "precious").mkdir()
    (area / "precious" / "canary").touch()
    try:
        # The same file system: a device number would not tell.
        mounts.bind(area / "precious", area / "tree" / "mounted")
        with pytest.raises(FailedPrecondition) as caught:
            trees.remove_tree(area / "tree")
        assert caught.value.reason == "PATH_BUSY"
        assert (area / "precious" / "canary").exists()
        assert trees.tree_size(area / "tree").entries == 2
        mounts.unmount_tree(area)
        assert trees.remove_tree(area / "tree") is True
    finally:
        mounts.unmount_tree(area)
        trees.remove_tree(area)


def test_remove_tree_overcomes_the_immutable_flag() -> None:
    area = Path(tempfile.mkdtemp(prefix="shoal-test-", dir="/var/tmp"))
    (area / "directory").mkdir()
    (area / "directory" / "file").touch()
    paths = [str(area / "directory" / "file"), str(area / "directory")]
    if subprocess.run(["chattr", "+i", *paths], capture_output=True).returncode != 0:
        trees.remove_tree(area)
        pytest.skip("this file system has no immutable flag")
    assert trees.remove_tree(area) is True
    assert not area.exists()


def test_daemons_take_turns_at_mounting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that mount the same controller the second would be told EBUSY."""
    inside, most = [0], [0]

    def mounting() -> list[str]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return []

    monkeypatch.setattr(cgroups, "mount_missing_v1_controllers", mounting)
    daemons = [MountedControllers() for _ in range(6)]
    started = [threading.Thread(target=daemon.mount) for daemon in daemons]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for daemon in daemons:
        daemon.close()
    assert most == [1]
