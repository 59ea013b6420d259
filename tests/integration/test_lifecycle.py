"""Containers with all real parts: what they see, how they end, what a next daemon makes of them; nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, FailedPrecondition, ResourceExhausted, ShoalError
from shoald.engine.volume_ports import VolumeFilter
from shoald.host import cgroups, mounts
from shoald.model.container import (
    ContainerState,
    Mount,
    MountKind,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from shoald.model.log import LogBatch
from tests.support.docker_registry import docker_registry, free_port
from tests.support.engine_host import EngineHost, RunningEngine, engine_host
from tests.support.images import BUSYBOX_CONFIG, push_image_sync
from tests.support.layers import Dir, File, Symlink, busybox_layer

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
RUNNING, EXITED = ContainerState.RUNNING, ContainerState.EXITED
ALWAYS = RestartPolicy(RestartPolicyName.ALWAYS)


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    with docker_registry() as registry:
        data = {
            "data": Dir(mode=0o750, uid=7, gid=8),
            "data/file": File(b"from the image\n", uid=7, gid=8),
            "data/sub": Dir(),
            "data/sub/link": Symlink("../file"),
            "away": Symlink("/etc"),
        }
        layers = [busybox_layer(), data]
        pushed = push_image_sync(
            registry.address, "app:1", layers=layers, config={**BUSYBOX_CONFIG, "Volumes": {"/data": {}}}
        )
        push_image_sync(registry.address, "busybox:latest")
        with engine_host(f"{registry.address}/busybox:latest") as made:
            made.other_image = pushed.reference
            yield made


@pytest.fixture
def app(host: EngineHost) -> str:
    """An image with a volume."""
    return host.other_image


@pytest.fixture
async def engine(host: EngineHost) -> AsyncIterator[RunningEngine]:
    """A running engine; after the test nothing is left but images."""
    async with host.engine() as running:
        yield running
        await running.remove_all()
        await host.settled()
        assert not running.engine.volumes.list(VolumeFilter())


async def until(condition, seconds: float = 20.0):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
    return value


async def state_of(engine: RunningEngine, name: str) -> ContainerState:
    return (await engine.state(name)).state


# --- what a container sees --------------------------------------------------------------------------------------------


async def test_user_namespace_or_the_hosts(host: EngineHost, engine: RunningEngine) -> None:
    own, _ = await engine.output("cat", "/proc/self/uid_map")
    assert own.split() == ["0", str(host.config.userns.base), "65536"]
    hosts, _ = await engine.output("cat", "/proc/self/uid_map", userns="host")
    assert hosts.split() == ["0", "0", "4294967295"]


async def test_other_users_of_the_host_see_nothing(host: EngineHost, engine: RunningEngine) -> None:
    for userns in ("", "host"):
        made = await engine.run("sleep", "100", userns=userns, mounts=(Mount(MountKind.VOLUME, "/v"),))
        bundle = host.state.run_dir / made.id
        for path in (bundle / "rootfs" / "bin" / "busybox", bundle / "config.json", bundle / "mounts" / "0000"):
            assert path.exists()
            for test in ("-r", "-x"):
                as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", test, str(path)]
                refused = await asyncio.create_subprocess_exec(*as_nobody)
                assert await refused.wait() != 0
        assert (bundle / "config.json").stat().st_mode & 0o077 == 0


async def test_read_only_tmpfs_init_hostname(engine: RunningEngine) -> None:
    script = "touch /x 2>&1; touch /scratch/x && stat -f -c %T /scratch; hostname; cat /proc/1/comm"
    tmpfs = Mount(MountKind.TMPFS, "/scratch", tmpfs_size_bytes=1 << 20)
    out, end = await engine.output("sh", "-c", script, read_only=True, mounts=(tmpfs,), init=True, hostname="abc")
    assert end.exit_code == 0
    refused, kind, name, first = out.splitlines()
    assert "Read-only file system" in refused
    assert (kind, name) == ("tmpfs", "abc")
    assert first in ("catatonit", "tini", "docker-init", "init")


async def test_limits_stand_in_the_cgroup(host: EngineHost, engine: RunningEngine) -> None:
    limits = Resources(memory_bytes=64 << 20, nano_cpus=500_000_000, pids_limit=50)
    made = await engine.run("sleep", "100", resources=limits)
    found = cgroups.detect()
    path = f"{host.settings['runtime']['cgroup_parent']}/{made.id}"
    unified = found.mode.value == "v2"
    memory, pids = found.path(path, "memory"), found.path(path, "pids")
    assert memory is not None
    assert pids is not None
    name = "memory.max" if unified else "memory.limit_in_bytes"
    assert int((memory / name).read_text()) == 64 << 20
    assert int((pids / "pids.max").read_text()) == 50


async def test_lack_of_memory_is_told(engine: RunningEngine) -> None:
    made = await engine.run("tail", "/dev/zero", resources=Resources(memory_bytes=16 << 20))
    end = await engine.engine.wait(made.id, "not-running")
    assert (end.exit_code, end.oom_killed) == (137, True)
    assert (await engine.state(made.id)).oom_killed


# --- volumes ----------------------------------------------------------------------------------------------------------


async def test_volumes_are_filled_from_the_image_once(engine: RunningEngine, app: str) -> None:
    look = "stat -c '%a %u %g' /data; stat -c '%u %g' /data/file; cat /data/file; readlink /data/sub/link"
    expected = ["750 7 8", "7 8", "from the image", "../file"]
    made = await engine.run("sh", "-c", look, image=app)
    await engine.engine.wait(made.id, "not-running")
    assert (await engine.logs(made.id)).splitlines() == expected
    (volume,) = engine.engine.volumes.list(VolumeFilter())
    assert volume.anonymous
    await engine.engine.remove(made.id, False, True)
    assert not engine.engine.volumes.list(VolumeFilter())

    named = (Mount(MountKind.VOLUME, "/data", "keep"),)
    out, _ = await engine.output("sh", "-c", f"{look}; rm -r /data/*; echo mine > /data/own", image=app, mounts=named)
    assert out.splitlines() == expected
    out, _ = await engine.output("ls", "/data", image=app, mounts=named)
    assert out.split() == ["own"]
    await engine.engine.volumes.remove("keep")
    out, _ = await engine.output("ls", "/v", image=app, mounts=(Mount(MountKind.VOLUME, "/v", "keep"),))
    assert out == ""
    out, _ = await engine.output("ls", "/away", image=app, mounts=(Mount(MountKind.VOLUME, "/away", "x1"),))
    assert "passwd" in out.split()  # the link is the image's: it leads to the image's /etc, not to the host's
    assert "apt" not in out.split()
    for name in ("keep", "x1"):
        await engine.engine.volumes.remove(name)


# --- input and output -------------------------------------------------------------------------------------------------


async def test_input_and_output_go_on_where_the_link_was_cut(engine: RunningEngine) -> None:
    made = await engine.run("cat", stdin_open=True)
    first = await engine.engine.attach(made.id, "start", True, True, True)
    await first.write_stdin(b"one\n")
    output = first.output()
    batch = await anext(output)
    assert isinstance(batch, LogBatch)
    assert batch.records[0].data == b"one\n"
    await output.aclose()  # type: ignore[attr-defined]
    await first.close()
    second = await engine.engine.attach(made.id, batch.cursor, True, True, True)
    await second.write_stdin(b"two\n")
    await second.close_stdin()
    rest = [item async for item in second.output()]
    await second.close()
    assert b"".join(r.data for b in rest[:-1] for r in b.records) == b"two\n"  # type: ignore[union-attr]
    assert rest[-1].exit_code == 0  # type: ignore[union-attr]


async def test_clients_that_come_and_go_leave_nothing(engine: RunningEngine) -> None:
    made = await engine.run("sh", "-c", "while :; do echo x; sleep 0.01; done", stdin_open=True)

    async def cycle() -> None:
        session = await engine.engine.attach(made.id, "start", True, True, True)
        output = session.output()
        await anext(output)
        await output.aclose()  # type: ignore[attr-defined]
        await session.close()

    for _ in range(5):
        await cycle()
    before = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    for _ in range(40):
        await asyncio.gather(*(cycle() for _ in range(5)))
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before[0]
    assert len(asyncio.all_tasks()) <= before[1]
    assert await state_of(engine, made.id) is RUNNING


async def test_run_rm_gives_all_output_and_frees_the_name(host: EngineHost, engine: RunningEngine) -> None:
    port = free_port(host.settings["network"]["publish_address"])
    for number in range(5):
        script = f"echo {number}; exit {number}"
        out, end = await engine.output("sh", "-c", script, name="one", ports=(PortMapping(80, "", port),))
        assert (out, end.exit_code) == (f"{number}\n", number)


# --- failure ----------------------------------------------------------------------------------------------------------


async def test_a_start_that_fails_leaves_nothing(host: EngineHost, engine: RunningEngine, app: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await engine.run("no-such-command", image=app, ports=(PortMapping(80),))
    assert caught.value.reason == "COMMAND_NOT_FOUND"
    with socket.socket() as taken:
        taken.bind((host.settings["network"]["publish_address"], 0))
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyExists) as conflict:
            await engine.run("true", image=app, ports=(PortMapping(80, "", port),))
    assert conflict.value.reason == "PORT_IN_USE"
    assert not host.state.containers()
    assert not engine.engine.volumes.list(VolumeFilter())
    await host.settled()


@pytest.fixture
def small(host: EngineHost) -> Iterator[EngineHost]:
    """A host whose data directory is on a disk of 16 MiB."""
    disk = Path(tempfile.mkdtemp(prefix="shoal-disk-", dir="/var/tmp"))
    mounts.mount("shoal-test", disk, "tmpfs", data="size=16m,mode=0711")
    try:
        disk.chmod(0o711)
        with engine_host(host.image, disk / "root") as made:
            yield made
    finally:
        mounts.unmount_tree(disk, detach=True)
        disk.rmdir()


async def test_a_full_disk(small: EngineHost) -> None:
    ballast = small.state.root.parent / "ballast"
    async with small.engine() as engine:
        assert (await engine.output("true"))[1].exit_code == 0
        await small.settled()
        _fill(ballast)
        for _ in range(3):
            with pytest.raises(ResourceExhausted):
                await engine.run("true")
        ballast.unlink()
        assert (await engine.output("true"))[1].exit_code == 0
        await small.settled()
        # Filled while it runs: it can be stopped, and its end is known when there is room again.
        made = await engine.run("sleep", "100")
        _fill(ballast)
        os.kill(made.pid, signal.SIGKILL)
        await asyncio.sleep(0.3)
        ballast.unlink()
        assert (await engine.engine.wait(made.id, "not-running")).exit_code == 137
        await small.settled()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


# --- ends and restarts ------------------------------------------------------------------------------------------------


async def test_on_failure_counts(engine: RunningEngine) -> None:
    policy = RestartPolicy(RestartPolicyName.ON_FAILURE, 2)
    made = await engine.run("sh", "-c", "echo run; exit 3", restart_policy=policy)
    end = await engine.engine.wait(made.id, "not-running")
    found = await engine.state(made.id)
    assert (end.exit_code, found.state, found.restart_count) == (3, EXITED, 2)
    assert await engine.logs(made.id) == "run\n" * 3


async def test_always_comes_back_until_it_is_stopped(host: EngineHost, engine: RunningEngine) -> None:
    made = await engine.run("sleep", "100", restart_policy=ALWAYS, ports=(PortMapping(80),))
    os.kill(made.pid, signal.SIGKILL)

    async def again() -> bool:
        found = await engine.state(made.id)
        return found.state is RUNNING and found.pid != made.pid

    await until(again)
    await host.settled()
    assert (await engine.engine.stop(made.id, 0, "")).state is EXITED
    await host.settled()


async def test_a_monitor_that_dies_is_an_end(host: EngineHost, engine: RunningEngine) -> None:
    made = await engine.run("sleep", "100", ports=(PortMapping(80),))
    os.kill(host.state.monitors()[made.id], signal.SIGKILL)
    end = await engine.engine.wait(made.id, "not-running")
    assert end.exit_code == 255
    await host.settled()
    assert (await engine.engine.start(made.id)).state is RUNNING


async def test_everything_at_once(host: EngineHost, engine: RunningEngine) -> None:
    made = await engine.run("sleep", "100", ports=(PortMapping(80),))
    calls = []
    for _ in range(4):
        calls += [
            engine.engine.start(made.id),
            engine.engine.stop(made.id, 0, ""),
            engine.engine.kill(made.id, "KILL"),
            engine.engine.remove(made.id, True, True),
        ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, ShoalError) for each in results if isinstance(each, BaseException)), results
    await host.settled()


# --- the next daemon --------------------------------------------------------------------------------------------------


async def test_the_next_daemon_knows_them(host: EngineHost) -> None:
    names = ("running", "ended", "gone", "unseen")
    async with host.engine() as engine:
        running = await engine.run("sh", "-c", "echo here; exec sleep 100", name="running", ports=(PortMapping(80),))
        ended = await engine.run("sh", "-c", "sleep 0.2; echo last words; exit 7", name="ended")
        await engine.run("sh", "-c", "sleep 0.2; exit 0", name="gone", auto_remove=True)
        lost = await engine.run("sleep", "100", name="unseen")
    monitors = host.state.monitors()
    os.kill(monitors[lost.id], signal.SIGKILL)
    os.kill(lost.pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    async with host.engine() as engine:
        await host.settled()
        found = {name: await engine.state(name) for name in names if name != "gone"}
        assert (found["running"].state, found["running"].pid, found["running"].ports) == (
            RUNNING, running.pid, running.ports,
        )  # fmt: skip
        assert (found["ended"].state, found["ended"].exit_code) == (EXITED, 7)
        assert await engine.logs(ended.id) == "last words\n"
        assert (found["unseen"].state, found["unseen"].exit_code) == (EXITED, 255)
        assert [c["name"] for c in host.state.containers().values()].count("gone") == 0
        await engine.remove_all()
    await host.settled()


async def test_after_a_reboot_policies_are_honoured(host: EngineHost) -> None:
    async with host.engine() as engine:
        made = {}
        for policy in RestartPolicyName:
            made[policy] = await engine.run(
                "sh", "-c", "echo up; exec sleep 100", restart_policy=RestartPolicy(policy), ports=(PortMapping(80),)
            )
        stopped = await engine.run("sleep", "100", restart_policy=RestartPolicy(RestartPolicyName.UNLESS_STOPPED))
        await engine.engine.stop(stopped.id, 0, "")
        removed = await engine.run("sleep", "100", auto_remove=True)
    await host.reboot()
    async with host.engine() as engine:
        for policy in (RestartPolicyName.ALWAYS, RestartPolicyName.UNLESS_STOPPED):

            async def up(each: str = made[policy].id) -> bool:
                return await state_of(engine, each) is RUNNING and await engine.logs(each) == "up\nup\n"

            await until(up)
        for policy in (RestartPolicyName.NO, RestartPolicyName.ON_FAILURE):
            found = await engine.state(made[policy].id)
            assert (found.state, found.exit_code) == (EXITED, 255)
        assert await state_of(engine, stopped.id) is EXITED
        assert removed.id not in host.state.containers()
        await host.settled()
        await engine.remove_all()
    await host.settled()
