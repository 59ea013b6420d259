"""Ends of containers at odd moments: in a back-off, on a full disk, with volumes of others, during restarts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.errors import Internal
from shoald.containers import transitions
from shoald.model.container import ContainerState, Mount, MountKind, RestartPolicy, RestartPolicyName
from tests.support.containers_rig import rig

RUNNING, EXITED, RESTARTING = ContainerState.RUNNING, ContainerState.EXITED, ContainerState.RESTARTING
ALWAYS = RestartPolicy(RestartPolicyName.ALWAYS)


@pytest.fixture(autouse=True)
def _without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "fchown", lambda *_: None)
        monkeypatch.setattr(os, "chown", lambda *_: None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_kill_of_one_that_waits_for_its_next_start_ends_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 0.2)
    async with rig(tmp_path) as host:
        made = await host.run("exit", "3", restart_policy=ALWAYS)
        await until(lambda: host.state(made.id) is RESTARTING)
        await host.cases.kill(made.id, "")
        assert host.state(made.id) is EXITED
        await asyncio.sleep(0.4)
        assert host.state(made.id) is EXITED


async def test_a_full_disk_at_a_restart_does_not_end_the_back_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 0.05)
    async with rig(tmp_path) as host:
        made = await host.run("exit", "3", restart_policy=ALWAYS)
        await until(lambda: host.state(made.id) is RESTARTING)
        update, failures = host.md.containers.update, [2]

        def failing(container_id: str, **fields: object) -> object:
            if "restart_count" in fields and failures[0]:
                failures[0] -= 1
                raise Internal("disk full", reason="DISK_FULL")
            return update(container_id, **fields)

        monkeypatch.setattr(host.md.containers, "update", failing)
        await until(lambda: not failures[0] and host.md.containers.find(made.id).restart_count >= 2)
        await host.cases.remove(made.id, True, False)


async def test_prune_leaves_volumes_and_rm_those_that_others_use(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        data = Mount(MountKind.VOLUME, "/data", "", anonymous=True)
        first = await host.run("exit", "0", mounts=(data,))
        await until(lambda: host.state(first.id) is EXITED)
        (name,) = [mount.source for mount in host.md.containers.find(first.id).spec.mounts]
        await host.control.prune((), None)
        assert host.state(first.id) is None
        assert name in [volume.name for volume in host.md.volumes.list()]
        owner = await host.run("sleep", "100", mounts=(data,))
        (shared,) = [mount.source for mount in owner.spec.mounts]
        user = await host.run("sleep", "100", mounts=(Mount(MountKind.VOLUME, "/d", shared),))
        await host.cases.remove(owner.id, True, True)
        assert host.state(owner.id) is None
        assert shared in [volume.name for volume in host.md.volumes.list()]
        await host.cases.remove(user.id, True, True)


async def test_two_restarts_at_once_of_one_that_goes_with_its_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", auto_remove=True)
        await asyncio.gather(*(host.cases.restart(made.id, 0, "") for _ in range(4)), return_exceptions=True)
        assert host.state(made.id) is RUNNING
