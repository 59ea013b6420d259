"""Containers over fakes: transitions, retries, races, restarts of the daemon, cancellation at every await."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ShoalError,
)
from shoald.containers import lifecycle, transitions
from shoald.model.change import ContainerChange
from shoald.model.container import ContainerState, PortMapping, RestartPolicy, RestartPolicyName
from shoald.model.log import LogBatch, LogQuery
from tests.support.containers_rig import Rig, rig

CREATED, RUNNING, EXITED = ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED
RESTARTING = ContainerState.RESTARTING
ALWAYS = RestartPolicy(RestartPolicyName.ALWAYS)
UNLESS_STOPPED = RestartPolicy(RestartPolicyName.UNLESS_STOPPED)


def on_failure(retries: int = 0) -> RestartPolicy:
    return RestartPolicy(RestartPolicyName.ON_FAILURE, retries)


@pytest.fixture(autouse=True)
def _without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "fchown", lambda *_: None)
        monkeypatch.setattr(os, "chown", lambda *_: None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- the plain life ---------------------------------------------------------------------------------------------------


async def test_a_life(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", ports=(PortMapping(80),))
        assert made.state is RUNNING
        assert made.ip_address
        assert made.ports[0].host_port
        assert host.network.connected == {made.id: made.pid}
        stopped = await host.cases.stop(made.name, None, "")
        assert (stopped.state, stopped.exit_code, stopped.ports, stopped.ip_address) == (EXITED, 143, (), "")
        await until(lambda: not host.leftovers())
        again = await host.cases.start(made.name)
        assert (again.state, again.exit_code, again.finished_at) == (RUNNING, None, None)
        await host.cases.remove(made.name, force=True, volumes=False)
        assert host.state(made.id) is None
        await until(lambda: not host.leftovers())
        assert host.actions(made.id) == [
            "create", "start", "kill", "die", "stop", "start", "kill", "die", "stop", "destroy",
        ]  # fmt: skip


async def test_what_is_done_twice_is_done_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        assert (await host.cases.start(made.id)).pid == made.pid
        first, second = await asyncio.gather(*(host.cases.stop(made.id, None, "") for _ in range(2)))
        assert first.state is second.state is EXITED
        assert (await host.cases.stop(made.id, None, "")).state is EXITED
        results = await asyncio.gather(
            *(host.cases.remove(made.id, False, False) for _ in range(3)), return_exceptions=True
        )
        assert results == [made.id] * 3
        await until(lambda: not host.leftovers())


async def test_remove_needs_force_while_it_runs(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        with pytest.raises(FailedPrecondition) as caught:
            await host.cases.remove(made.id, False, False)
        assert caught.value.reason == "CONTAINER_RUNNING"
        assert host.state(made.id) is RUNNING
        await host.cases.remove(made.id, True, False)
        await until(lambda: not host.leftovers())


async def test_kill_of_what_does_not_run(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("true")
        await host.cases.wait(made.id, "not-running")
        with pytest.raises(FailedPrecondition) as caught:
            await host.cases.kill(made.id, "TERM")
        assert caught.value.reason == "NOT_RUNNING"


async def test_name_and_ports_are_free_when_run_rm_has_ended(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        for _ in range(5):
            made = await host.run("exit", "7", name="one", auto_remove=True, ports=(PortMapping(80, "", 8080),))
            assert (await host.cases.wait(made.id, "not-running")).exit_code == 7
        await until(lambda: not host.leftovers())


async def test_ports_are_free_when_stop_returns(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        spec = {"ports": (PortMapping(80, "", 8080),)}
        for _ in range(3):
            made = await host.run("sleep", "100", **spec)
            await host.cases.stop(made.id, 0, "")


async def test_wait_means_that_ports_are_free(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "0.02", ports=(PortMapping(80, "", 8080),))
        assert (await host.cases.wait(made.id, "not-running")).exit_code == 0
        assert host.network.reserved(made.id) == (None, ())


async def test_wait_for_the_next_exit_and_for_removal(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        waits = [asyncio.create_task(host.cases.wait(made.id, each)) for each in ("next-exit", "removed")]
        await asyncio.sleep(0.01)
        await host.cases.kill(made.id, "KILL")
        assert (await waits[0]).exit_code == 137
        await asyncio.sleep(0.01)
        assert not waits[1].done()
        await host.cases.remove(made.id, False, False)
        assert (await waits[1]).exit_code == 137


async def test_a_container_in_its_grace_can_be_killed(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:

        async def stubborn(process, _args):  # type: ignore[no-untyped-def]
            while True:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    if process.signals[-1] == 9:
                        raise

        host.runtime.programs["stubborn"] = stubborn
        made = await host.run("stubborn")
        stopping = asyncio.create_task(host.cases.stop(made.id, -1, ""))
        await asyncio.sleep(0.02)
        assert host.state(made.id) is RUNNING
        await host.cases.kill(made.id, "KILL")
        assert (await stopping).exit_code == 137
        again = await host.run("stubborn")
        assert (await host.cases.stop(again.id, 0.02, "")).exit_code == 137
        await until(lambda: not host.leftovers())


# --- failure ----------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[str, ShoalError, int]] = {
    "no such command": ("create", FailedPrecondition("no", reason="COMMAND_NOT_FOUND"), 127),
    "not executable": ("create", FailedPrecondition("no", reason="COMMAND_NOT_EXECUTABLE"), 126),
    "the runtime fails": ("start", Internal("broken", reason="RUNTIME_FAILED"), 128),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_start_that_fails_leaves_nothing(tmp_path: Path, case: str) -> None:
    method, error, code = FAILURES[case]
    async with rig(tmp_path) as host:
        host.runtime.fail[method] = error
        with pytest.raises(type(error)):
            await host.run("true", ports=(PortMapping(80),))
        assert not host.md.containers.list()
        await until(lambda: not host.leftovers())
        host.runtime.fail[method] = error
        with pytest.raises(type(error)):
            await host.run("true", ports=(PortMapping(80),), keep=True)
        (kept,) = host.md.containers.list()
        assert (kept.state, kept.exit_code, kept.error) == (CREATED, code, str(error))
        await until(lambda: not host.leftovers())
        assert (await host.cases.start(kept.id)).state is RUNNING


@pytest.mark.parametrize("part", ["mount", "allocate", "connect", "create", "start"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ResourceExhausted("full"), KeyError("bug")])
async def test_any_step_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception) -> None:
    async with rig(tmp_path) as host:
        owner = {"mount": host.snapshots, "allocate": host.network, "connect": host.network}.get(part, host.runtime)

        async def broken(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, part, broken)
            wanted = ResourceExhausted if not isinstance(error, KeyError) else KeyError
            with pytest.raises(wanted):
                await host.run("true", ports=(PortMapping(80),))
        await until(lambda: not host.leftovers())
        assert not host.md.containers.list()


async def test_a_row_that_cant_be_written_undoes_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as host:
        update = host.md.containers.update

        def full(container_id: str, **fields: object) -> object:
            if fields.get("state") is RUNNING:
                raise ResourceExhausted("the disk is full", reason="DISK_FULL")
            return update(container_id, **fields)

        monkeypatch.setattr(host.md.containers, "update", full)
        with pytest.raises(ResourceExhausted):
            await host.run("sleep", "100")
        await until(lambda: not host.leftovers())


async def test_an_exit_on_a_full_disk_is_written_down_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_RETRY_S", 0.01)
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "0.01")
        update, refused = host.md.containers.update, [2]

        def full(container_id: str, **fields: object) -> object:
            if refused[0]:
                refused[0] -= 1
                raise ResourceExhausted("the disk is full", reason="DISK_FULL")
            return update(container_id, **fields)

        monkeypatch.setattr(host.md.containers, "update", full)
        await until(lambda: host.state(made.id) is EXITED)
        assert refused == [0]


async def test_a_removal_that_fails_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("true")
        await host.cases.wait(made.id, "not-running")

        async def broken(_: str) -> None:
            raise Internal("no", reason="SYSCALL_FAILED")

        with monkeypatch.context() as patch:
            patch.setattr(host.runtime, "delete", broken)
            with pytest.raises(Internal):
                await host.cases.remove(made.id, False, False)
        assert host.state(made.id) is ContainerState.DEAD
        with pytest.raises(FailedPrecondition):
            await host.cases.start(made.id)
        await host.cases.remove(made.id, False, False)
        await until(lambda: not host.leftovers())


async def test_a_name_in_use(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        await host.run("true", name="one")
        with pytest.raises(AlreadyExists) as caught:
            await host.run("true", name="one")
        assert caught.value.reason == "NAME_IN_USE"
        assert len(host.md.containers.list()) == 1


async def test_a_bind_source_that_is_missing(tmp_path: Path) -> None:
    from shoald.model.container import Mount, MountKind

    async with rig(tmp_path) as host:
        with pytest.raises(InvalidArgument):
            await host.run("true", mounts=(Mount(MountKind.BIND, "/x", str(tmp_path / "none")),))
        assert not host.md.containers.list()
        await until(lambda: not host.leftovers())


# --- races ------------------------------------------------------------------------------------------------------------


async def test_a_late_notice_is_no_exit_of_the_next_run(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("true")
        await host.cases.wait(made.id, "not-running")
        host.runtime.programs["true"] = host.runtime.programs["sleep"]
        host.md.containers.update(made.id, process=replace(made.process, args=("sleep", "100")))
        await host.cases.start(made.id)
        await host.supervisor._life.settle_exit(made.id)
        assert host.state(made.id) is RUNNING


async def test_everything_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        calls: list[Awaitable[object]] = []
        for _ in range(4):
            calls += [
                host.cases.start(made.id),
                host.cases.stop(made.id, 0, ""),
                host.cases.kill(made.id, "KILL"),
                host.cases.restart(made.id, 0, ""),
                host.control.pause(made.id),
                host.control.unpause(made.id),
                host.control.update(made.id, ContainerChange(pids_limit=9)),
                host.cases.remove(made.id, True, True),
            ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        strange = [r for r in results if isinstance(r, BaseException) and not isinstance(r, ShoalError)]
        assert not strange
        with contextlib.suppress(NotFound):
            await host.cases.remove(made.id, True, True)
        await until(lambda: not host.leftovers())


# --- restart policies -------------------------------------------------------------------------------------------------


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(transitions, "MAX_DELAY_S", 0.02)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("policy", "code", "starts"), [
    (on_failure(2), "3", 3),
    (on_failure(2), "0", 1),
    (RestartPolicy(), "3", 1),
])  # fmt: skip
async def test_how_often_it_is_started(tmp_path: Path, policy: RestartPolicy, code: str, starts: int) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("exit", code, restart_policy=policy)
        ended = await host.cases.wait(made.id, "not-running")
        assert ended.exit_code == int(code)
        assert host.actions(made.id).count("start") == starts
        assert host.md.containers.find(made.id).restart_count == starts - 1
        await until(lambda: not host.leftovers())


async def test_stop_during_the_back_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "FIRST_DELAY_S", 100.0)
    async with rig(tmp_path) as host:
        for end in ("stop", "rm"):
            made = await host.run("exit", "1", restart_policy=ALWAYS)
            await until(lambda each=made.id: host.state(each) is RESTARTING)
            with pytest.raises(FailedPrecondition):
                await host.cases.remove(made.id, False, False)
            if end == "stop":
                assert (await host.cases.stop(made.id, None, "")).state is EXITED
            else:
                await host.cases.remove(made.id, True, False)
            assert not host.supervisor._life._timers
            await until(lambda: not host.leftovers())


@pytest.mark.usefixtures("_quick")
async def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "0.01", restart_policy=ALWAYS)
        host.runtime.fail["create"] = Internal("busy", reason="RUNTIME_FAILED")
        await until(lambda: host.actions(made.id).count("start") >= 3)
        await host.cases.remove(made.id, True, False)
        await until(lambda: not host.leftovers())


async def test_a_user_who_stops_is_obeyed(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", restart_policy=ALWAYS)
        await host.cases.kill(made.id, "KILL")
        await host.cases.wait(made.id, "not-running")
        assert host.state(made.id) is EXITED


# --- retries of requests ----------------------------------------------------------------------------------------------


async def test_run_with_the_same_id_runs_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        first, second = await asyncio.gather(*(host.run("sleep", "100", request_id="r") for _ in range(2)))
        third = await host.run("sleep", "100", request_id="r")
        assert first.id == second.id == third.id
        assert len(host.md.containers.list()) == 1
        with pytest.raises(AlreadyExists) as caught:
            await host.run("sleep", "1", request_id="r")
        assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_run_rm_with_the_same_id_after_its_end(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("echo", "hello", request_id="r", auto_remove=True)
        await host.cases.wait(made.id, "removed")
        assert (await host.run("echo", "hello", request_id="r", auto_remove=True)).id == made.id
        assert host.actions(made.id).count("start") == 1


async def test_retries_of_the_other_calls(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", auto_remove=True)
        await host.cases.stop(made.name, None, "", "s")
        assert (await host.cases.stop(made.name, None, "", "s")).state is EXITED
        other = await host.run("sleep", "100")
        await host.cases.remove(other.name, True, False, "d")
        assert await host.cases.remove(other.name, True, False, "d") == other.id


async def test_a_caller_that_goes_away_leaves_the_work(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        running = asyncio.create_task(host.run("sleep", "100", request_id="r"))
        await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        made = await host.run("sleep", "100", request_id="r")
        assert made.state is RUNNING
        assert len(host.md.containers.list()) == 1


# --- cancellation -----------------------------------------------------------------------------------------------------


def _suspending(host: Rig) -> None:
    """Let the fakes give way before and after what they do, as the real parts do."""

    def wrap(owner: object, name: str) -> None:
        method = getattr(owner, name)

        async def wrapped(*args: object, **kwargs: object) -> object:
            await asyncio.sleep(0)
            result = await method(*args, **kwargs)
            await asyncio.sleep(0)
            return result

        setattr(owner, name, wrapped)

    # Not create_writable, which has no await: a lease holds what it made until the row does.
    for name in ("mount", "unmount", "remove"):
        wrap(host.snapshots, name)
    for name in ("allocate", "connect", "release"):
        wrap(host.network, name)
    for name in ("kill", "kill_all", "delete", "pause", "resume"):
        wrap(host.runtime, name)


def _turns() -> Iterator[int]:
    """Turns of the loop before the cancellation: each of the first, then ever longer, as threads take many."""
    yield from range(1, 40)
    steps = 40.0
    while steps < 1e6:
        yield int(steps)
        steps *= 1.3


async def test_cancelled_at_every_await_a_run_leaves_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        _suspending(host)
        for steps in _turns():
            task = asyncio.create_task(_create_and_start(host))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            for each in host.md.containers.list():
                assert each.state in (CREATED, RUNNING)
                await host.supervisor.remove(each.id, force=True, volumes=True)
            await until(lambda: not host.leftovers())
        else:
            raise AssertionError("never done")
        assert steps > 8


async def _create_and_start(host: Rig) -> None:
    made = await host.supervisor.create("", host.spec("sleep", "100", ports=(PortMapping(80),)), host.image)
    await host.supervisor.start(made.id)


@pytest.mark.parametrize("what", ["stop", "remove", "start", "pause", "unpause", "restart", "frozen"])
async def test_cancelled_at_every_await_others_can_be_repeated(tmp_path: Path, what: str) -> None:
    async with rig(tmp_path) as host:
        _suspending(host)
        for steps in _turns():
            made = await host.run("sleep", "100")
            if what == "start":
                await host.supervisor.stop(made.id, 0, "")
            if what == "unpause":
                await host.supervisor.freezing.pause(made.id)
            calls = {
                "stop": lambda each=made.id: host.supervisor.stop(each, 10, ""),
                "remove": lambda each=made.id: host.supervisor.remove(each, force=True, volumes=True),
                "start": lambda each=made.id: host.supervisor.start(each),
                "pause": lambda each=made.id: host.supervisor.freezing.pause(each),
                "unpause": lambda each=made.id: host.supervisor.freezing.unpause(each),
                "restart": lambda each=made.id: host.supervisor.restart(each, 0, ""),
                "frozen": lambda each=made.id: _frozen_for_a_moment(host, each),
            }
            task = asyncio.ensure_future(calls[what]())
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            # What is written and what is so agree, wherever it was cancelled.
            found = host.state(made.id)
            if found in (RUNNING, ContainerState.PAUSED):
                assert (found is ContainerState.PAUSED) == host.runtime.paused(made.id)
            await host.supervisor.remove(made.id, force=True, volumes=True)
            await until(lambda: not host.leftovers())
        else:
            raise AssertionError("never done")


async def _frozen_for_a_moment(host: Rig, container_id: str) -> None:
    async with host.supervisor.freezing.frozen(container_id):
        await asyncio.sleep(0)


# --- the next daemon --------------------------------------------------------------------------------------------------


async def test_a_new_daemon_takes_over(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        runtime = host.runtime
    async with rig(tmp_path, runtime=runtime) as host:
        found = host.md.containers.find(made.id)
        assert (found.state, found.pid) == (RUNNING, made.pid)
        assert (await host.cases.stop(made.id, None, "")).exit_code == 143


async def test_an_exit_while_no_daemon_ran(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = [await host.run("sleep", "100", auto_remove=rm, restart_policy=p) for rm, p in (
            (False, RestartPolicy()), (True, RestartPolicy()), (False, ALWAYS), (False, on_failure(3)),
        )]  # fmt: skip
        runtime = host.runtime
    for each in made:
        await runtime.kill(each.id, 9)
    await asyncio.sleep(0.01)
    async with rig(tmp_path, runtime=runtime) as host:
        plain, removed, always, failing = (each.id for each in made)
        found = host.md.containers.find(plain)
        assert (found.state, found.exit_code) == (EXITED, 137)
        await until(lambda: host.state(removed) is None)
        await until(lambda: host.state(always) is RUNNING and host.state(failing) is RUNNING)
        assert host.md.containers.find(always).restart_count == 1
        assert host.cases.find(removed).id == removed  # its log can still be read


@pytest.mark.parametrize(("policy", "stopped", "runs"), [
    (RestartPolicy(), False, False),
    (on_failure(), False, False),
    (ALWAYS, False, True),
    (ALWAYS, True, True),
    (UNLESS_STOPPED, False, True),
    (UNLESS_STOPPED, True, False),
])  # fmt: skip
async def test_after_a_reboot(tmp_path: Path, policy: RestartPolicy, stopped: bool, runs: bool) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", restart_policy=policy)
        if stopped:
            await host.cases.stop(made.id, 0, "")
    for directory in (tmp_path / "run").rglob("*"):
        with contextlib.suppress(OSError):
            directory.unlink()
    async with rig(tmp_path) as host:  # a runtime that knows nothing
        if runs:
            await until(lambda: host.state(made.id) is RUNNING)
        else:
            found = host.md.containers.find(made.id)
            assert (found.state, found.exit_code) == (EXITED, 137 if stopped else 255)
            assert not host.supervisor._life._timers
        host.runtime.running.clear()


@pytest.mark.parametrize("state", list(ContainerState))
@pytest.mark.parametrize("remove", [False, True])
async def test_every_state_is_recovered_from(tmp_path: Path, state: ContainerState, remove: bool) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100", auto_remove=remove)
        runtime = host.runtime
        host.md.containers.update(made.id, state=state, pid=0 if state is not RUNNING else made.pid, started_at=None)
    async with rig(tmp_path, runtime=runtime) as host:
        if state in (ContainerState.CREATING, ContainerState.REMOVING, ContainerState.DEAD):
            assert host.state(made.id) is None
            await until(lambda: not host.leftovers())
        else:
            # Its process lives and was started: the row was behind.
            found = host.md.containers.find(made.id)
            assert (found.state, found.pid) == (RUNNING, made.pid)
            await host.cases.remove(made.id, True, True)
        await until(lambda: not host.leftovers())


async def test_a_daemon_that_ends_undoes_what_is_half_done(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        begun = asyncio.Event()

        async def slow(_: object) -> None:
            begun.set()
            await asyncio.sleep(100)

        host.runtime.create = slow  # type: ignore[method-assign, assignment]
        running = asyncio.create_task(host.run("sleep", "100"))
        await begun.wait()
        kept = host.md.containers.list()
        assert [each.state for each in kept] == [CREATED]
    with pytest.raises(asyncio.CancelledError):
        await running
    async with rig(tmp_path) as host:
        assert not host.md.containers.list()
        host.assert_clean()


async def test_created_but_not_started_is_not_taken_for_running(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        kept, gone = [await host.run("sleep", "100", auto_remove=rm, request_id=f"r{rm}") for rm in (False, True)]
        runtime = host.runtime
        for each in (kept, gone):
            host.md.containers.update(each.id, state=CREATED, pid=0, started_at=None)
            runtime.running[each.id].started = False
    async with rig(tmp_path, runtime=runtime) as host:
        assert (host.state(kept.id), host.state(gone.id)) == (CREATED, None)
        await until(lambda: not host.leftovers())
        # The client asks again: it gets what it wanted.
        assert (await host.run("sleep", "100", request_id="rFalse")).id == kept.id
        assert host.state(kept.id) is RUNNING


async def test_an_exit_that_was_settled_but_not_cleared(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("exit", "3")
        await until(lambda: host.runtime.exit_of(made.id) or host.state(made.id) is EXITED)
        await host.cases.wait(made.id, "not-running")
        before = host.md.containers.find(made.id)
        runtime = host.runtime
        from shoald.runtime.ports import Exit

        assert before.finished_at is not None
        micros = round(before.finished_at.timestamp() * 1e6)
        runtime.ended[made.id] = Exit(made.id, 3, False, micros * 1000)
    async with rig(tmp_path, runtime=runtime) as host:
        after = host.md.containers.find(made.id)
        assert (after.state, after.finished_at, after.started_at) == (EXITED, before.finished_at, before.started_at)
        assert "start" not in host.actions(made.id)


async def test_one_broken_container_keeps_no_other_from_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as host:
        broken, fine = [await host.run("sleep", "100") for _ in range(2)]
        runtime = host.runtime
    running_pid = runtime.running_pid

    def fails(container_id: str) -> object:
        if container_id == broken.id:
            raise OSError(5, "Input/output error")
        return running_pid(container_id)

    monkeypatch.setattr(runtime, "running_pid", fails)
    async with rig(tmp_path, runtime=runtime) as host:
        assert host.state(fine.id) is RUNNING
        assert "Input/output error" in host.md.containers.find(broken.id).error


async def test_what_has_no_row_is_removed(tmp_path: Path) -> None:
    stray = "5" * 64
    async with rig(tmp_path):
        pass
    (tmp_path / "run" / stray / "rootfs").mkdir(parents=True)
    (tmp_path / "containers" / stray).mkdir()
    (tmp_path / "containers" / stray / "log").write_text("x")
    async with rig(tmp_path) as host:
        await until(lambda: not host.leftovers())


# --- output -----------------------------------------------------------------------------------------------------------


async def _read(host: Rig, name: str, query: LogQuery) -> bytes:
    return b"".join([r.data async for batch in host.output.logs(name, query) for r in batch.records])


async def test_output_of_one_that_is_gone(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        for _ in range(20):
            made = await host.run("echo", "hello", auto_remove=True)
            session = await host.output.attach(made.id, "start", True, True, False)
            got = [item async for item in session.output()]
            await session.close()
            assert b"".join(r.data for b in got if isinstance(b, LogBatch) for r in b.records).startswith(b"hello")
            assert not isinstance(got[-1], LogBatch)
            assert got[-1].exit_code == 0
            assert (await _read(host, made.id, LogQuery(follow=True))).startswith(b"hello")


async def test_attach_shows_the_present_run_and_logs_all(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("echo", "one")
        await host.cases.wait(made.id, "not-running")
        await host.cases.start(made.id)
        session = await host.output.attach(made.id, "start", True, True, False)
        got = [item async for item in session.output()]
        assert sum(len(b.records) for b in got if isinstance(b, LogBatch)) == 1
        assert (await _read(host, made.id, LogQuery())).count(b"one") == 2


async def test_follow_of_one_that_never_started(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        host.runtime.fail["create"] = Internal("no", reason="RUNTIME_FAILED")
        with pytest.raises(Internal):
            await host.run("true", keep=True, name="one")
        async with asyncio.timeout(5):
            assert await _read(host, "one", LogQuery(follow=True)) == b""


async def test_more_followers_than_a_user_has_inotify_instances(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = [await host.run("sleep", "100") for _ in range(3)]
        reads = [asyncio.create_task(_read(host, made[n % 3].id, LogQuery(follow=True))) for n in range(300)]
        await asyncio.sleep(0.05)
        for each in made:
            host.runtime.running[each.id].print(b"words\n")
            await host.cases.stop(each.id, 0, "")
        assert await asyncio.gather(*reads) == [b"words\n"] * 300


async def test_stdin_of_one_without(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        made = await host.run("sleep", "100")
        with pytest.raises(FailedPrecondition) as caught:
            await host.output.attach(made.id, "", True, True, True)
        assert caught.value.reason == "STDIN_CLOSED"


async def test_nothing_is_remembered_of_those_who_waited(tmp_path: Path) -> None:
    async with rig(tmp_path) as host:
        for _ in range(10):
            made = await host.run("true", auto_remove=True)
            await host.cases.wait(made.id, "removed")
            await host.cases.wait(made.id, "not-running")
            assert [item async for item in (await host.output.attach(made.id, "", True, True, False)).output()]
            assert await _read(host, made.id, LogQuery(follow=True)) == b""
        await until(lambda: not host.leftovers())
        life = host.supervisor._life
        await until(lambda: not any((len(life.watch._events), life.locks._locks, life._tasks, life._timers)))
