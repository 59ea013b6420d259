"""Pause, restart, rename, update, prune, health and waiting over fakes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound
from shoald.containers import transitions
from shoald.engine.containers import selects
from shoald.engine.ports import ContainerFilter
from shoald.model.change import ContainerChange
from shoald.model.container import (
    ContainerState,
    HealthCheck,
    HealthStatus,
    Mount,
    MountKind,
    PullPolicy,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from tests.support.containers_rig import Rig, rig

CREATED, RUNNING, EXITED = ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED
PAUSED, RESTARTING = ContainerState.PAUSED, ContainerState.RESTARTING
ALWAYS = RestartPolicy(RestartPolicyName.ALWAYS)
CHECK = HealthCheck(test=("CMD", "look"), interval_s=0.01, retries=2)


@pytest.fixture(autouse=True)
def _without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "fchown", lambda *_: None)
        monkeypatch.setattr(os, "chown", lambda *_: None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def status(host: Rig, container_id: str) -> HealthStatus | None:
    health = host.md.containers.find(container_id).health
    return health.status if health else None


# --- pause ------------------------------------------------------------------------------------------------------------


async def test_pause_and_unpause(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        await host.control.pause(made.id)
        assert (host.state(made.id), host.runtime.frozen) == (PAUSED, {made.id})
        for call, reason in (
            (host.control.pause(made.id), "ALREADY_PAUSED"),
            (host.cases.start(made.id), "CONTAINER_PAUSED"),
            (host.cases.remove(made.id, False, False), "CONTAINER_RUNNING"),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await call
            assert caught.value.reason == reason
        await host.control.unpause(made.id)
        assert (host.state(made.id), host.runtime.frozen) == (RUNNING, set())
        with pytest.raises(FailedPrecondition) as caught:
            await host.control.unpause(made.id)
        assert caught.value.reason == "NOT_PAUSED"
        assert host.actions(made.id)[-2:] == ["pause", "unpause"]


@pytest.mark.parametrize("how", ["stop", "stop at once", "kill", "remove", "restart"])
async def test_what_ends_a_paused_container_thaws_it(tmp_path: Path, how: str) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        await host.control.pause(made.id)
        if how == "stop":
            assert (await host.cases.stop(made.id, 10, "")).exit_code == 143
        elif how == "stop at once":
            assert (await host.cases.stop(made.id, 0, "")).exit_code == 137
        elif how == "kill":
            await host.cases.kill(made.id, "KILL")
            assert (await host.cases.wait(made.id, "not-running")).exit_code == 137
        elif how == "remove":
            await host.cases.remove(made.id, True, False)
        else:
            assert (await host.cases.restart(made.id, 10, "")).state is RUNNING
            await host.cases.remove(made.id, True, False)
        await until(lambda: not host.leftovers())
        assert not host.runtime.frozen


async def test_a_signal_that_is_not_its_end_leaves_it_paused(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", stop_signal="SIGUSR1")
        await host.control.pause(made.id)
        await host.cases.kill(made.id, "HUP")
        assert host.state(made.id) is PAUSED
        await host.cases.kill(made.id, "USR1")
        await host.cases.wait(made.id, "not-running")


async def test_an_exit_while_paused(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "0.2")
        await host.control.pause(made.id)
        assert (await host.cases.wait(made.id, "not-running")).exit_code == 0
        assert host.state(made.id) is EXITED


async def test_a_pause_that_fails_leaves_it_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", health_check=CHECK)
        host.runtime.fail["pause"] = Internal("no", reason="RUNTIME_FAILED")
        with pytest.raises(Internal):
            await host.control.pause(made.id)
        assert host.state(made.id) is RUNNING
        update = host.md.containers.update

        def full(container_id: str, **fields: object) -> object:
            if fields.get("state") is PAUSED:
                raise Internal("disk full", reason="DISK_FULL")
            return update(container_id, **fields)

        monkeypatch.setattr(host.md.containers, "update", full)
        with pytest.raises(Internal):
            await host.control.pause(made.id)
        assert (host.state(made.id), host.runtime.frozen) == (RUNNING, set())
        await until(lambda: status(host, made.id) is HealthStatus.HEALTHY)


async def test_held_still_for_a_moment(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        hold = host.supervisor.freezing.frozen
        async with hold(made.id):
            async with hold(made.id):
                assert (host.state(made.id), host.runtime.frozen) == (RUNNING, {made.id})
            assert host.runtime.frozen == {made.id}
        assert not host.runtime.frozen
        async with hold(made.id):
            await host.control.pause(made.id)
        assert (host.state(made.id), host.runtime.frozen) == (PAUSED, {made.id})
        await host.control.unpause(made.id)
        async with hold(made.id):
            assert (await host.cases.stop(made.id, 10, "")).exit_code == 143
        async with hold(made.id):
            assert not host.runtime.frozen


@pytest.mark.parametrize(
    ("row", "frozen", "after"), [(RUNNING, True, RUNNING), (PAUSED, True, PAUSED), (PAUSED, False, RUNNING)]
)
async def test_the_next_daemon_believes_the_row_that_it_is_paused(
    tmp_path: Path, row: ContainerState, frozen: bool, after: ContainerState
) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        runtime = host.runtime
        host.md.containers.update(made.id, state=row)
        if frozen:
            runtime.frozen.add(made.id)
    async with rig(tmp_path, runtime=runtime) as host:
        assert host.state(made.id) is after
        assert (made.id in runtime.frozen) == (after is PAUSED)
        await host.cases.remove(made.id, True, False)
        await until(lambda: not host.leftovers())


# --- create and restart -----------------------------------------------------------------------------------------------


async def test_create_starts_nothing_and_stays(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        spec = host.spec("true", auto_remove=True)
        made, _ = await host.cases.create("one", spec, PullPolicy.NEVER, None)
        again, _ = await host.cases.create("one", spec, PullPolicy.NEVER, None)
        assert (made.state, made.id, host.runtime.running) == (CREATED, again.id, {})
        with pytest.raises(AlreadyExists):
            await host.cases.create("one", host.spec("false"), PullPolicy.NEVER, None)
    async with rig(tmp_path) as host:
        assert host.state(made.id) is CREATED
        again, _ = await host.cases.create("one", spec, PullPolicy.NEVER, None)
        assert again.id == made.id
        await host.cases.start(made.id)
        await host.cases.wait(made.id, "removed")
        await until(lambda: not host.leftovers())


async def test_restart_keeps_what_would_be_removed_at_its_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", auto_remove=True)
        again = await host.cases.restart(made.id, 0, "")
        assert again.state is RUNNING
        assert again.pid != made.pid
        assert host.actions(made.id)[-4:] == ["die", "stop", "start", "restart"]
        host.runtime.fail["create"] = Internal("no", reason="RUNTIME_FAILED")
        with pytest.raises(Internal):
            await host.cases.restart(made.id, 0, "")
        assert host.state(made.id) is None
        await until(lambda: not host.leftovers())


async def test_the_back_off_goes_on_with_the_next_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 40.0)
    async with rig(tmp_path) as host:
        made = await host.run("exit", "3", restart_policy=ALWAYS)
        await until(lambda: host.state(made.id) is RESTARTING)
        runtime = host.runtime
        ended = datetime.now(UTC) - timedelta(seconds=39.9)
        host.md.containers.update(made.id, finished_at=ended)
    runtime.ended.clear()
    async with rig(tmp_path, runtime=runtime) as host:
        assert host.state(made.id) is RESTARTING
        await until(lambda: host.md.containers.find(made.id).restart_count == 1)
        await until(lambda: host.state(made.id) is RESTARTING)
        assert host.md.containers.find(made.id).restart_delay_s == transitions.MAX_DELAY_S
        await host.cases.remove(made.id, True, False)


# --- rename, update, prune --------------------------------------------------------------------------------------------


async def test_rename(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made, other = await host.run("sleep", "100", name="web"), await host.run("sleep", "100", name="other")
        await host.control.rename("web", "www", "once")
        await host.control.rename("web", "www", "once")
        assert (host.md.containers.find("www").id, host.events[-1][2]["oldName"]) == (made.id, "web")
        wrong = {"other": AlreadyExists, "www": InvalidArgument, "x/y": InvalidArgument, "": InvalidArgument}
        for name, error in wrong.items():
            with pytest.raises(error):
                await host.control.rename("www", name)
        with pytest.raises(NotFound):
            await host.control.rename("web", "z")
        assert host.md.containers.find("other").id == other.id


async def test_update_changes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", resources=Resources(pids_limit=10))
        updated, _ = await host.control.update(made.id, ContainerChange(pids_limit=20, restart_policy=ALWAYS))
        assert (updated.spec.resources.pids_limit, updated.spec.restart_policy) == (20, ALWAYS)
        assert [(each.name, each.value) for each in host.runtime.limits.pop(made.id)] == [("pids.max", "20")]
        host.runtime.fail["set_limits"] = FailedPrecondition("no", reason="LIMIT_REFUSED")
        with pytest.raises(FailedPrecondition):
            await host.control.update(made.id, ContainerChange(pids_limit=30))
        assert host.md.containers.find(made.id).spec == updated.spec

        def full(*_: object, **__: object) -> object:
            raise Internal("disk full", reason="DISK_FULL")

        with monkeypatch.context() as patched:
            patched.setattr(host.md.containers, "update", full)
            with pytest.raises(Internal):
                await host.control.update(made.id, ContainerChange(pids_limit=30))
        assert [each.value for each in host.runtime.limits[made.id]] == ["30", "20"]
        with pytest.raises(InvalidArgument):
            await host.control.update(made.id, ContainerChange(memory_bytes=1))


async def test_a_policy_that_is_taken_away_ends_the_back_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 1000.0)
    async with rig(tmp_path) as host:
        made = await host.run("exit", "3", restart_policy=ALWAYS)
        await until(lambda: host.state(made.id) is RESTARTING)
        updated, _ = await host.control.update(made.id, ContainerChange(restart_policy=RestartPolicy()))
        assert updated.state is EXITED
        assert (await host.cases.wait(made.id, "not-running")).exit_code == 3


async def test_one_that_was_stopped_before_it_got_a_policy_stays_stopped(tmp_path: Path) -> None:
    unless = RestartPolicy(RestartPolicyName.UNLESS_STOPPED)
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        await host.cases.stop(made.id, 0, "")
        await host.control.update(made.id, ContainerChange(restart_policy=unless))
    async with rig(tmp_path) as host:
        assert host.state(made.id) is EXITED


async def test_prune(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        running = await host.run("sleep", "100")
        paused = await host.run("sleep", "100")
        await host.control.pause(paused.id)
        ended = await host.run("true", labels={"a": "1"})
        await host.cases.wait(ended.id, "not-running")
        made, _ = await host.cases.create("", host.spec("true"), PullPolicy.NEVER, None)
        assert (await host.control.prune([("a", "2")], None))[0] == []
        assert (await host.control.prune([], ended.created_at))[0] == []
        assert (await host.control.prune([("a", "1")], None))[0] == [ended.id]
        assert (await host.control.prune([], None))[0] == [made.id]
        assert {each.id for each in host.md.containers.list()} == {running.id, paused.id}
        assert host.events[-1][0] == "prune"


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        host.probes.code = 1
        made = await host.run("sleep", "100", health_check=CHECK)
        assert status(host, made.id) is HealthStatus.STARTING
        waiting = asyncio.create_task(host.cases.wait(made.id, "healthy"))
        await until(lambda: status(host, made.id) is HealthStatus.UNHEALTHY)
        host.probes.code = 0
        assert (await waiting).exit_code == 0
        health = host.md.containers.find(made.id).health
        assert health is not None
        assert (health.failing_streak, len(health.log)) == (0, min(5, len(health.log)))
        await host.control.pause(made.id)
        count = host.probes.count
        await asyncio.sleep(0.05)
        assert host.probes.count == count
        await host.control.unpause(made.id)
        await until(lambda: host.probes.count > count + 5)
        runtime = host.runtime
        told = [action for action in host.actions(made.id) if action.startswith("health")]
        assert told == ["health_status: unhealthy", "health_status: healthy"]
    async with rig(tmp_path, runtime=runtime) as host:
        await until(lambda: host.probes.count > 1)
        assert status(host, made.id) is HealthStatus.HEALTHY
        await host.cases.stop(made.id, 0, "")
        assert status(host, made.id) is HealthStatus.UNHEALTHY
        with pytest.raises(FailedPrecondition) as caught:
            await host.cases.wait(made.id, "healthy")
        assert caught.value.reason == "NOT_RUNNING"
        await host.cases.start(made.id)
        await host.cases.wait(made.id, "healthy")
        await host.cases.remove(made.id, True, False)
        assert not host.supervisor._life.health._tasks


async def test_failures_in_the_start_period_do_not_count(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        host.probes.code = 1
        patient = replace(CHECK, start_period_s=1000.0, start_interval_s=0.01, interval_s=1000.0)
        made = await host.run("sleep", "100", health_check=patient)
        await until(lambda: host.probes.count > 5)
        assert status(host, made.id) is HealthStatus.STARTING
        host.probes.code = 0
        await host.cases.wait(made.id, "healthy")
        count = host.probes.count
        await asyncio.sleep(0.05)
        assert host.probes.count == count


async def test_without_a_check_there_is_no_task(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        off = await host.run("sleep", "100", health_check=HealthCheck(test=("NONE",)))
        assert not host.supervisor._life.health._tasks
        for each in (made, off):
            assert each.health is None
            with pytest.raises(FailedPrecondition) as caught:
                await host.cases.wait(each.id, "healthy")
            assert caught.value.reason == "NO_HEALTH_CHECK"


async def test_waiting_for_health_ends_with_the_container(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        host.probes.code = 1
        made = await host.run("sleep", "100", health_check=CHECK)
        waiting = asyncio.create_task(host.cases.wait(made.id, "healthy"))
        await asyncio.sleep(0.05)
        await host.cases.stop(made.id, 0, "")
        with pytest.raises(FailedPrecondition):
            await waiting


# --- filters ----------------------------------------------------------------------------------------------------------


async def test_what_a_list_selects(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        mounts = (Mount(MountKind.VOLUME, "/data", source="data"),)
        made = await host.run("sleep", "100", health_check=CHECK, mounts=mounts)
        await host.cases.wait(made.id, "healthy")
        found = host.md.containers.find(made.id)
        for wanted, selected in (
            (ContainerFilter(health=HealthStatus.HEALTHY), True),
            (ContainerFilter(health=HealthStatus.UNHEALTHY), False),
            (ContainerFilter(volume="data"), True),
            (ContainerFilter(volume="/data"), True),
            (ContainerFilter(volume="other"), False),
            (ContainerFilter(states=(PAUSED,)), False),
        ):
            assert selects(wanted, found) == selected
        assert selects(ContainerFilter(), replace(found, state=PAUSED))
        await host.cases.remove(made.id, True, False)
        await until(lambda: not host.leftovers())
