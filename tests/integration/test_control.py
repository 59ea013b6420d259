"""Pause, update, health checks, stats, top, changes and commit with all real parts; over daemons that end too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoald.engine.ports import ContainerFilter, EventFilter
from shoald.host import cgroups, freezer
from shoald.model.change import ContainerChange
from shoald.model.container import (
    Container,
    ContainerSpec,
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
from shoald.model.insight import ChangeKind
from tests.support.docker_registry import docker_registry
from tests.support.engine_host import EngineHost, RunningEngine, engine_host
from tests.support.images import BUSYBOX_CONFIG, push_image_sync
from tests.support.layers import Dir, File, busybox_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
RUNNING, EXITED, PAUSED = ContainerState.RUNNING, ContainerState.EXITED, ContainerState.PAUSED
MIB = 1 << 20
FOREVER = ("sleep", "1000")
COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")


@pytest.fixture(scope="module", params=["crun", "runc"])
def host(request: pytest.FixtureRequest) -> Iterator[EngineHost]:
    with docker_registry() as registry:
        push_image_sync(registry.address, "busybox:latest")
        layers = [busybox_layer(), {"old": Dir(), "old/a": File(b"a\n"), "old/b": File(b"b\n"), "kept": File(b"k\n")}]
        checked = {"Healthcheck": {"Test": ["CMD-SHELL", "test -e /kept"], "Interval": 200_000_000}}
        pushed = push_image_sync(registry.address, "app:1", layers=layers, config={**BUSYBOX_CONFIG, **checked})
        with engine_host(f"{registry.address}/busybox:latest") as made:
            made.settings["runtime"]["name"] = request.param
            made.other_image = pushed.reference
            yield made


@pytest.fixture
async def engine(host: EngineHost) -> AsyncIterator[RunningEngine]:
    """A running engine; after the test nothing is left but images."""
    async with host.engine() as running:
        yield running
        await running.remove_all()
        await host.settled()


async def until(engine: RunningEngine, name: str, condition, seconds: float = 20.0) -> Container:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not condition(found := await engine.state(name)):
            await asyncio.sleep(0.02)
    return found


def knob(engine: RunningEngine, container_id: str, controller: str, name: str) -> str:
    """A control file of the container, as the host sees it."""
    path = cgroups.detect().path(f"{engine.host.state.cgroup_parent}/{container_id}", controller)
    assert path is not None
    return (path / name).read_text().strip()


def frozen(engine: RunningEngine, container_id: str) -> bool:
    return freezer.is_frozen(cgroups.detect(), f"{engine.host.state.cgroup_parent}/{container_id}")


async def actions(engine: RunningEngine, container_id: str) -> list[str]:
    wanted = EventFilter(cursor=1, actors=(container_id,))
    found = []
    async with aclosing(engine.engine.events(wanted)) as events:  # type: ignore[type-var]
        try:
            async with asyncio.timeout(0.5):
                async for event in events:
                    found.append(event.action)
        except TimeoutError:
            pass
    return found


# --- pause ------------------------------------------------------------------------------------------------------------


async def test_a_paused_container_does_nothing_until_it_is_unpaused(engine: RunningEngine) -> None:
    made = await engine.run(*COUNT)
    await engine.engine.control.pause(made.id)
    assert (await engine.state(made.id)).state is PAUSED
    assert frozen(engine, made.id)
    await asyncio.sleep(0.1)
    before = await engine.logs(made.id)
    await asyncio.sleep(0.3)
    assert await engine.logs(made.id) == before
    assert [c.id for c in await engine.engine.list_containers(ContainerFilter())] == [made.id]
    with pytest.raises(FailedPrecondition, match="already paused"):
        await engine.engine.control.pause(made.id)
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.start(made.id)
    assert caught.value.reason == "CONTAINER_PAUSED"
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.remove(made.id, False, False)
    assert caught.value.reason == "CONTAINER_RUNNING"
    await engine.engine.control.unpause(made.id)
    assert (await engine.state(made.id)).state is RUNNING
    async with asyncio.timeout(10):
        while await engine.logs(made.id) == before:
            await asyncio.sleep(0.05)
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.control.unpause(made.id)
    assert caught.value.reason == "NOT_PAUSED"
    assert (await actions(engine, made.id))[-2:] == ["pause", "unpause"]


async def test_stop_kill_and_remove_of_a_paused_container(engine: RunningEngine) -> None:
    trap = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    made = await engine.run(*trap)
    await asyncio.sleep(0.3)
    await engine.engine.control.pause(made.id)
    stopped = await engine.engine.stop(made.id, 20.0, "")
    assert (stopped.state, stopped.exit_code) == (EXITED, 3)
    await engine.engine.start(made.id)
    await engine.engine.control.pause(made.id)
    await engine.engine.kill(made.id, "")
    assert (await engine.engine.wait(made.id, "not-running")).exit_code == 137
    await engine.engine.start(made.id)
    await engine.engine.control.pause(made.id)
    assert (await engine.engine.stop(made.id, 0, "")).exit_code == 137
    await engine.engine.start(made.id)
    await engine.engine.control.pause(made.id)
    await engine.engine.remove(made.id, True, False)
    with pytest.raises(NotFound):
        await engine.state(made.id)


async def test_pause_over_a_restart_of_the_daemon(host: EngineHost) -> None:
    async with host.engine() as engine:
        one, other = await engine.run(*FOREVER), await engine.run(*FOREVER)
        await engine.engine.control.pause(one.id)
        await engine.engine.control.pause(other.id)
    # A daemon that died in an unpause, and one that died while it held a container still.
    freezer.thaw(cgroups.detect(), f"{host.state.cgroup_parent}/{other.id}")
    async with host.engine() as engine:
        assert (await engine.state(one.id)).state is PAUSED
        assert (await engine.state(other.id)).state is RUNNING
        assert frozen(engine, one.id)
        await engine.engine.remove(one.id, True, False)
        await engine.engine.remove(other.id, True, False)
        await host.settled()


async def test_a_paused_container_after_a_power_cut(host: EngineHost) -> None:
    async with host.engine() as engine:
        made = await engine.run(*FOREVER, restart_policy=RestartPolicy(RestartPolicyName.ALWAYS))
        await engine.engine.control.pause(made.id)
    freezer.thaw(cgroups.detect(), f"{host.state.cgroup_parent}/{made.id}")
    await host.reboot()
    async with host.engine() as engine:
        await until(engine, made.id, lambda found: found.state is RUNNING)
        await engine.engine.remove(made.id, True, False)
        await host.settled()


# --- create, restart, rename, prune -----------------------------------------------------------------------------------


async def test_create_waits_for_start_also_over_a_restart_of_the_daemon(host: EngineHost) -> None:
    async with host.engine() as engine:
        spec = ContainerSpec(image=host.image, command=("true",), auto_remove=True)
        made, _ = await engine.engine.create("one", spec, PullPolicy.MISSING, None)
        again, _ = await engine.engine.create("one", spec, PullPolicy.MISSING, None)
        assert (made.state, again.id) == (ContainerState.CREATED, made.id)
    async with host.engine() as engine:
        assert (await engine.state(made.id)).state is ContainerState.CREATED
        await engine.engine.start(made.id)
        await engine.engine.wait(made.id, "removed")
        await host.settled()


async def test_restart(engine: RunningEngine) -> None:
    made = await engine.run(*FOREVER, auto_remove=True)
    again = await engine.engine.restart(made.id, 0, "")
    assert (again.state, again.id) == (RUNNING, made.id)
    assert again.pid != made.pid
    assert (await actions(engine, made.id))[-5:] == ["kill", "die", "stop", "start", "restart"]
    await engine.engine.stop(made.id, 0, "")
    await engine.engine.wait(made.id, "removed")


async def test_rename_and_prune(engine: RunningEngine) -> None:
    made = await engine.run("true", name="first", labels={"a": "1"})
    await engine.engine.wait(made.id, "not-running")
    await engine.engine.control.rename("first", "second")
    assert (await engine.state("second")).id == made.id
    with pytest.raises(InvalidArgument):
        await engine.engine.control.rename("second", "no/slash")
    other = await engine.run(*FOREVER)
    assert await engine.engine.control.prune([("a", "2")], None) == ([], 0)
    ids, freed = await engine.engine.control.prune([("a", "")], None)
    assert ids == [made.id]
    assert freed >= 0
    assert (await engine.state(other.id)).state is RUNNING


# --- update -----------------------------------------------------------------------------------------------------------


async def test_update_of_a_running_container(engine: RunningEngine) -> None:
    made = await engine.run(*FOREVER, resources=Resources(memory_bytes=64 * MIB, nano_cpus=500_000_000))
    control = engine.engine.control
    updated, _ = await control.update(
        made.id,
        ContainerChange(
            memory_bytes=256 * MIB, nano_cpus=1_500_000_000, pids_limit=50, cpu_shares=512, cpuset_cpus="0",
            restart_policy=RestartPolicy(RestartPolicyName.ALWAYS),
        ),
    )  # fmt: skip
    assert updated.spec.resources.memory_bytes == 256 * MIB
    assert updated.spec.restart_policy.name is RestartPolicyName.ALWAYS
    unified = cgroups.detect().mode is cgroups.Mode.UNIFIED
    limit = "memory.max" if unified else "memory.limit_in_bytes"
    assert knob(engine, made.id, "memory", limit) == str(256 * MIB)
    assert knob(engine, made.id, "pids", "pids.max") == "50"
    assert knob(engine, made.id, "cpuset", "cpuset.cpus") == "0"
    if not unified:
        assert knob(engine, made.id, "cpu", "cpu.cfs_quota_us") == "150000"
        assert knob(engine, made.id, "cpu", "cpu.shares") == "512"
    # Smaller, and taken away again.
    await control.update(made.id, ContainerChange(memory_bytes=32 * MIB))
    assert knob(engine, made.id, "memory", limit) == str(32 * MIB)
    await control.update(made.id, ContainerChange(memory_bytes=-1, nano_cpus=-1, pids_limit=-1, cpuset_cpus=""))
    assert knob(engine, made.id, "pids", "pids.max") == "max"
    assert int(knob(engine, made.id, "memory", limit).replace("max", str(1 << 62))) > 1 << 50


async def test_an_update_is_all_or_nothing(engine: RunningEngine) -> None:
    made = await engine.run(
        "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 && echo ready && sleep 1000",
        resources=Resources(memory_bytes=128 * MIB),
    )  # fmt: skip
    async with asyncio.timeout(20):
        while "ready" not in await engine.logs(made.id):
            await asyncio.sleep(0.05)
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.control.update(made.id, ContainerChange(pids_limit=20, memory_bytes=16 * MIB))
    assert caught.value.reason in ("MEMORY_IN_USE", "LIMIT_REFUSED")
    for change, reason in (
        (ContainerChange(memory_bytes=1 * MIB), "INVALID_MEMORY"),
        (ContainerChange(cpuset_cpus="0,4000"), "INVALID_CPUSET"),
        (ContainerChange(nano_cpus=10**13), "INVALID_CPUS"),
        (ContainerChange(restart_policy=RestartPolicy(RestartPolicyName.NO, 3)), "INVALID_RESTART_POLICY"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await engine.engine.control.update(made.id, change)
        assert refused.value.reason == reason
    assert knob(engine, made.id, "pids", "pids.max") != "20"
    assert (await engine.state(made.id)).spec == made.spec


# --- health -----------------------------------------------------------------------------------------------------------


def check(line: str, **fields: float) -> HealthCheck:
    return HealthCheck(test=("CMD-SHELL", line), interval_s=0.1, retries=2, **fields)  # type: ignore[arg-type]


async def test_health_of_the_request(host: EngineHost) -> None:
    async with host.engine() as engine:
        made = await engine.run(*FOREVER, health_check=check("echo looked; test -e /well"))
        found = await until(engine, made.id, lambda c: c.health and c.health.status is HealthStatus.UNHEALTHY)
        assert found.health is not None
        assert found.health.failing_streak >= 2
        assert found.health.log[-1].exit_code == 1
        assert found.health.log[-1].output == "looked\n"
        waiting = asyncio.create_task(engine.engine.wait(made.id, "healthy"))
        done, _ = await engine.output("true")
        assert done == ""
        await _exec(engine, made.id, "touch", "/well")
        assert (await asyncio.wait_for(waiting, 20)).exit_code == 0
        assert {"health_status: unhealthy", "health_status: healthy"} <= set(await actions(engine, made.id))
    async with host.engine() as engine:
        # The next daemon goes on.
        assert (await engine.state(made.id)).health.status is HealthStatus.HEALTHY  # type: ignore[union-attr]
        await _exec(engine, made.id, "rm", "/well")
        await until(engine, made.id, lambda c: c.health.status is HealthStatus.UNHEALTHY)
        await engine.engine.remove(made.id, True, False)
        await host.settled()


async def test_health_of_the_image_and_its_absence(engine: RunningEngine) -> None:
    made = await engine.run(*FOREVER, image=engine.host.other_image)
    await engine.engine.wait(made.id, "healthy")
    wanted = ContainerFilter(health=HealthStatus.HEALTHY)
    assert [c.id for c in await engine.engine.list_containers(wanted)] == [made.id]
    plain = await engine.run(*FOREVER, image=engine.host.other_image, health_check=HealthCheck(test=("NONE",)))
    assert plain.health is None
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.wait(plain.id, "healthy")
    assert caught.value.reason == "NO_HEALTH_CHECK"
    waiting = asyncio.create_task(engine.engine.wait(made.id, "not-running"))
    await engine.engine.stop(made.id, 0, "")
    await waiting
    with pytest.raises(FailedPrecondition) as caught:
        await engine.engine.wait(made.id, "healthy")
    assert caught.value.reason == "NOT_RUNNING"


async def test_a_check_that_takes_too_long_is_ended(engine: RunningEngine) -> None:
    made = await engine.run(*FOREVER, health_check=check("echo begun; sleep 777", timeout_s=0.3))
    found = await until(engine, made.id, lambda c: c.health.status is HealthStatus.UNHEALTHY)
    assert found.health is not None
    probe = found.health.log[-1]
    assert (probe.exit_code, probe.output) == (-1, "Health check exceeded timeout (0.3s): begun\n")
    await engine.engine.control.pause(made.id)
    table = await engine.engine.insight.top(made.id, ["-eo", "pid,args"])
    assert not [row for row in table.rows if "777" in row[1]]


async def _exec(engine: RunningEngine, name: str, *args: str) -> None:
    from shoald.engine.ports import ExecOrder, ExecRequest, ExitStatus

    started = await engine.engine.exec("", ExecOrder(name, ExecRequest(args)))
    session = await engine.engine.exec_attach(started.exec_id, "", False)
    last = [item async for item in session.output()][-1]
    await session.close()
    assert last == ExitStatus(0)


# --- insight ----------------------------------------------------------------------------------------------------------


async def test_stats_and_top(engine: RunningEngine) -> None:
    busy = await engine.run("sh", "-c", "while :; do :; done", resources=Resources(memory_bytes=64 * MIB))
    idle = await engine.run(*FOREVER)
    await engine.engine.control.pause(idle.id)
    async with aclosing(engine.engine.insight.stats([], False, 0.2)) as stream:  # type: ignore[type-var]
        first = {sample.id: sample async for sample in _flat(stream, 1)}
        second = {sample.id: sample async for sample in _flat(stream, 1)}
    assert first.keys() == second.keys() == {busy.id, idle.id}
    assert second[busy.id].cpu_fraction > 0.2
    assert second[busy.id].cpu_ns > first[busy.id].cpu_ns
    assert second[idle.id].cpu_fraction < 0.1
    assert second[busy.id].memory_limit_bytes == 64 * MIB
    assert second[busy.id].memory_bytes > 0
    assert second[busy.id].pids == 1
    chosen = await engine.engine.insight.top(busy.id, ["-o", "pid,comm"])
    assert chosen.rows == ((str(busy.pid), "sh"),)
    table = await engine.engine.insight.top(busy.id, [])
    assert table.titles[:2] == ("UID", "PID")
    assert [row[1] for row in table.rows] == [str(busy.pid)]
    for bad in (["-o", "args"], ["--nonsense"], ["; rm"], ["$(x)"]):
        with pytest.raises(InvalidArgument):
            await engine.engine.insight.top(busy.id, bad)


async def _flat(stream, batches):  # type: ignore[no-untyped-def]
    for _ in range(batches):
        for sample in await anext(stream):
            yield sample


CHANGE = "echo x > /new; rm -r /old; mkdir /old; echo y > /old/c; rm /kept; mkdir -p /deep/er; echo h > /etc/motd"


async def test_changes_and_commit(engine: RunningEngine) -> None:
    made = await engine.run(
        "sh", "-c", f"{CHANGE}; echo secret > /vol/s; echo done; sleep 1000",
        image=engine.host.other_image,
        mounts=(Mount(MountKind.TMPFS, "/vol"),),
    )  # fmt: skip
    async with asyncio.timeout(20):
        while "done" not in await engine.logs(made.id):
            await asyncio.sleep(0.05)
    found = [change async for batch in engine.engine.insight.changes(made.id) for change in batch]
    listed = {change.path: change.kind for change in found}
    assert listed == {
        "/deep": ChangeKind.ADDED,
        "/deep/er": ChangeKind.ADDED,
        "/etc": ChangeKind.MODIFIED,
        "/etc/motd": ChangeKind.ADDED,
        "/kept": ChangeKind.DELETED,
        "/new": ChangeKind.ADDED,
        "/old": ChangeKind.MODIFIED,
        "/old/a": ChangeKind.DELETED,
        "/old/b": ChangeKind.DELETED,
        "/old/c": ChangeKind.ADDED,
    }
    blobs = set((engine.host.state.root / "content/blobs/sha256").iterdir())
    image = await engine.engine.insight.commit(
        "", made.id, "made/here:1", "me", "a commit", ['CMD ["cat", "/new"]', "ENV A=b", "LABEL x=y"], True
    )
    assert not frozen(engine, made.id)
    # The layer, the configuration, the manifest: its files were packed once.
    assert len(set((engine.host.state.root / "content/blobs/sha256").iterdir()) - blobs) == 3
    assert image.tags == ("docker.io/made/here:1",)
    config = image.config.defaults
    assert (config.cmd, "A=b" in (config.env or []), config.labels) == (["cat", "/new"], True, {"x": "y"})
    text, end = await engine.output(image="made/here:1")
    assert (text, end.exit_code) == ("x\n", 0)
    look = "ls -d /old/* /kept /deep/er /vol/* /etc/hosts 2>&1; stat -c %u /new"
    text, _ = await engine.output("sh", "-c", look, image=image.id)
    assert text.splitlines() == [
        "ls: /kept: No such file or directory",
        "ls: /vol/*: No such file or directory",
        "/deep/er",
        "/etc/hosts",
        "/old/c",
        "0",
    ]
    for bad in (["RUN true"], ["FROM x"], ["NONSENSE"]):
        with pytest.raises(InvalidArgument):
            await engine.engine.insight.commit("", made.id, "", "", "", bad, True)
    with pytest.raises(InvalidArgument):
        await engine.engine.insight.commit("", made.id, "UPPER", "", "", [], True)
    await engine.engine.remove(made.id, True, True)
    await engine.engine.remove_image("made/here:1", False)
