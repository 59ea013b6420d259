"""Isolation and limits with all real parts, on crun and on runc: measured inside and outside of the container."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoald.host import cgroups, rights
from shoald.model.container import (
    BlkioLimit,
    Container,
    ContainerSpec,
    Device,
    Mount,
    MountKind,
    PullPolicy,
    Resources,
    RestartPolicy,
    RestartPolicyName,
    Ulimit,
)
from shoald.runtime.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES
from tests.support.docker_registry import docker_registry
from tests.support.engine_host import EngineHost, RunningEngine, engine_host
from tests.support.host_state import disagreements
from tests.support.images import push_image_sync

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
GROUPS = cgroups.detect()
V1 = GROUPS.mode is not cgroups.Mode.UNIFIED


@pytest.fixture(scope="module", params=["crun", "runc"])
def host(request: pytest.FixtureRequest) -> Iterator[EngineHost]:
    with docker_registry() as registry:
        pushed = push_image_sync(registry.address, "busybox:latest")
        with engine_host(pushed.reference) as made:
            made.settings["runtime"]["name"] = request.param
            yield made


@pytest.fixture
async def engine(host: EngineHost) -> AsyncIterator[RunningEngine]:
    async with host.engine() as running:
        yield running
        await running.remove_all()
        try:
            await host.settled()
        except AssertionError:
            raise AssertionError(disagreements(host.state)) from None


def bits(mask: str) -> set[str]:
    number = int(mask, 16)
    return {name for place, name in enumerate(ALL_CAPABILITIES) if number >> place & 1}


async def status(engine: RunningEngine, **fields: Any) -> dict[str, str]:
    out, end = await engine.output("cat", "/proc/self/status", **fields)
    assert end.exit_code == 0, out
    return {name: value.strip() for name, _, value in (line.partition(":") for line in out.splitlines())}


def control(host: EngineHost, made: Container, controller: str, name: str) -> str:
    """A control file of its cgroup, as the host sees it."""
    path = GROUPS.path(f"{host.settings['runtime']['cgroup_parent']}/{made.id}", controller)
    assert path is not None
    return (path / name).read_text().strip()


# --- capabilities and other rights ------------------------------------------------------------------------------------


async def test_capabilities(engine: RunningEngine) -> None:
    assert bits((await status(engine))["CapBnd"]) == set(DEFAULT_CAPABILITIES)
    found = await status(engine, cap_add=("net_admin", "CAP_SYS_PTRACE"), cap_drop=("NET_RAW",))
    wanted = {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN", "CAP_SYS_PTRACE"} - {"CAP_NET_RAW"}
    assert bits(found["CapBnd"]) == bits(found["CapEff"]) == wanted
    assert bits((await status(engine, cap_drop=("ALL",), cap_add=("chown",)))["CapEff"]) == {"CAP_CHOWN"}
    assert bits((await status(engine, cap_drop=("all",)))["CapBnd"]) == set()
    every = await status(engine, cap_add=("ALL",), cap_drop=("SYS_ADMIN",))
    assert bits(every["CapEff"]) == set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}


async def test_a_capability_opens_its_system_calls(engine: RunningEngine) -> None:
    mount = ("sh", "-c", "mkdir -p /m && mount -t tmpfs none /m && echo mounted")
    refused, end = await engine.output(*mount)
    assert "mounted" not in refused
    assert end.exit_code != 0
    done, _ = await engine.output(*mount, cap_add=("SYS_ADMIN",))
    assert done == "mounted\n"


async def test_no_new_privileges_and_seccomp(engine: RunningEngine) -> None:
    default = await status(engine)
    assert (default["NoNewPrivs"], default["Seccomp"]) == ("1", "2")
    off = await status(engine, security_options=("no-new-privileges:false", "seccomp=unconfined"))
    assert (off["NoNewPrivs"], off["Seccomp"]) == ("0", "0")
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    out, end = await engine.output("mkdir", "/x", security_options=(f"seccomp={json.dumps(profile)}",))
    assert "not supported" in out
    assert end.exit_code == 1


async def test_privileged(engine: RunningEngine) -> None:
    script = (
        "cat /proc/self/uid_map; grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status;"
        "ls /dev | wc -l; grep -c ' /proc/[^ ]* ' /proc/mounts; grep -E ' (/sys|/sys/fs/cgroup/memory) ' /proc/mounts"
    )
    out, _ = await engine.output("sh", "-c", script, privileged=True)
    lines = out.splitlines()
    assert lines[0].split() == ["0", "0", "4294967295"]
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:4])}
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("0", "0")
    assert {"CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_MODULE"} <= bits(found["CapEff"])
    assert int(lines[4]) > 20
    assert lines[5] == "0"
    assert all("rw" in line.split()[3].split(",") for line in lines[6:])
    again, _ = await engine.output("cat", "/proc/self/status", privileged=True, security_options=("no-new-privileges",))
    assert "NoNewPrivs:\t1" in again


async def test_masked_paths_unless_told(engine: RunningEngine) -> None:
    look = ("sh", "-c", "wc -c < /proc/keys; grep -c ' /proc/' /proc/mounts")
    assert (await engine.output(*look))[0].split()[0] == "0"
    shown, _ = await engine.output(
        "grep", "-c", " /proc/", "/proc/mounts", security_options=("systempaths=unconfined",)
    )
    assert shown == "0\n"


async def test_groups_and_users(engine: RunningEngine) -> None:
    assert (await engine.output("id", "-G", group_add=("4321", "0")))[0].split() == ["0", "4321"]
    with pytest.raises(InvalidArgument) as caught:
        await engine.run("id", group_add=("nobody-knows",))
    assert caught.value.reason == "INVALID_GROUP"


# --- namespaces -------------------------------------------------------------------------------------------------------


async def links(engine: RunningEngine, **fields: Any) -> dict[str, str]:
    script = "for n in pid ipc uts cgroup net user mnt; do echo $n $(readlink /proc/self/ns/$n); done"
    out, end = await engine.output("sh", "-c", script, **fields)
    assert end.exit_code == 0, out
    return dict(line.split() for line in out.splitlines())


async def test_the_hosts_namespaces(engine: RunningEngine) -> None:
    mine = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "ipc", "uts", "cgroup", "net", "user")}
    own = await links(engine)
    assert all(own[name] != mine[name] for name in mine)
    for name, field in (("pid", "pid_mode"), ("ipc", "ipc_mode"), ("uts", "uts_mode"), ("cgroup", "cgroupns_mode")):
        found = await links(engine, **{field: "host"})
        shared = {"pid", "user"} if name == "pid" else {name}
        assert {each for each in mine if found[each] == mine[each]} == shared
    everything = await links(
        engine, pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host", network="host", userns="host"
    )
    assert {name: everything[name] for name in mine} == mine


async def test_the_hosts_processes_are_seen_with_pid_host(engine: RunningEngine) -> None:
    out, _ = await engine.output("cat", f"/proc/{os.getpid()}/comm", pid_mode="host")
    assert out == Path("/proc/self/comm").read_text()


async def test_joining_another_container(engine: RunningEngine) -> None:
    first = await engine.run("sh", "-c", "hostname; echo here > /dev/shm/note; exec sleep 1000", name="first",
                             ipc_mode="shareable", shm_size_bytes=3 << 20)  # fmt: skip
    for name, field in (("pid", "pid_mode"), ("ipc", "ipc_mode"), ("net", "network")):
        found = await links(engine, **{field: "container:first"})
        kinds = {each for each in found if found[each] == os.readlink(f"/proc/{first.pid}/ns/{each}")}
        assert kinds == {name, "user"}
    script = "cat /dev/shm/note; df -k /dev/shm | tail -1; hostname; cat /etc/hosts; ps -o comm"
    out, end = await engine.output(
        "sh", "-c", script, ipc_mode="container:first", network=f"container:{first.id}", pid_mode="container:first"
    )
    assert end.exit_code == 0, out
    lines = out.splitlines()
    assert lines[0] == "here"
    assert lines[1].split()[1] == "3072"
    assert lines[2] == first.id[:12]
    assert first.ip_address in out
    assert "sleep" in lines[-4:]


async def test_joining_needs_one_that_runs_and_shares(engine: RunningEngine) -> None:
    with pytest.raises(ShoalError) as missing:
        await engine.run("true", network="container:nobody")
    assert missing.value.reason == "CONTAINER_NOT_FOUND"
    first = await engine.run("sleep", "1000", name="first")
    with pytest.raises(InvalidArgument) as closed:
        await engine.run("true", ipc_mode="container:first")
    assert closed.value.reason == "IPC_NOT_SHAREABLE"
    second = await engine.run("sleep", "1000", name="second")
    with pytest.raises(InvalidArgument) as different:
        await engine.run("true", network="container:first", pid_mode="container:second")
    assert different.value.reason == "DIFFERENT_USER_NAMESPACES"
    await engine.engine.remove(second.id, True, True)
    joined = await engine.run("sleep", "1000", network="container:first", name="joined")
    assert joined.userns_base == first.userns_base
    await engine.engine.stop("joined", 0, "")
    await engine.engine.stop("first", 0, "")
    with pytest.raises(FailedPrecondition) as stopped:
        await engine.engine.start("joined")
    assert stopped.value.reason == "JOINED_NOT_RUNNING"
    assert "first" in str(stopped.value)
    await engine.engine.start("first")
    assert (await engine.engine.start("joined")).pid
    await engine.engine.remove("first", True, True)
    await engine.engine.stop("joined", 0, "")
    with pytest.raises(FailedPrecondition) as gone:
        await engine.engine.start("joined")
    assert gone.value.reason == "JOINED_NOT_RUNNING"


# --- names ------------------------------------------------------------------------------------------------------------


async def test_names_and_resolvers(engine: RunningEngine) -> None:
    out, _ = await engine.output(
        "sh", "-c", "cat /etc/hosts /etc/resolv.conf; hostname; cat /proc/sys/kernel/domainname; ip route | head -1",
        hostname="box", domainname="example.org", extra_hosts=("db:10.1.2.3", "up:host-gateway", "six=[2001:db8::1]"),
        dns=("10.9.8.7", "10.9.8.6"), dns_search=("corp.example",), dns_options=("ndots:3", "use-vc"),
    )  # fmt: skip
    for line in ("10.1.2.3\tdb", "2001:db8::1\tsix",
                 "nameserver 10.9.8.7", "nameserver 10.9.8.6", "search corp.example",
                 "options ndots:3 use-vc"):  # fmt: skip
        assert line in out.splitlines()
    assert "\tbox.example.org box\n" in out
    gateway = out.splitlines()[-1].split()[2]
    assert f"{gateway}\tup" in out.splitlines()
    assert "box" in out.splitlines()


async def test_domain_name_of_the_kernel(engine: RunningEngine) -> None:
    out, _ = await engine.output("cat", "/proc/sys/kernel/domainname", domainname="example.org", userns="host")
    assert out == "example.org\n"


# --- limits of processes and the kernel -------------------------------------------------------------------------------


async def test_ulimits(engine: RunningEngine) -> None:
    limits = (Ulimit("nofile", 300, 400), Ulimit("core", 0, 0), Ulimit("nproc", 55, 66), Ulimit("memlock", 4096, 8192))
    made = await engine.run("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c; exec sleep 1000", ulimits=limits)
    outside = Path(f"/proc/{made.pid}/limits").read_text()
    found = {" ".join(line.split()[:-3]): line.split()[-3:-1] for line in outside.splitlines()[1:]}
    assert found["Max open files"] == ["300", "400"]
    assert found["Max processes"] == ["55", "66"]
    assert found["Max locked memory"] == ["4096", "8192"]
    for _ in range(200):
        if (said := (await engine.logs(made.id)).split()) == ["300", "400", "0"]:
            break
        await asyncio.sleep(0.05)
    await engine.engine.stop(made.id, 0, "")
    assert said == ["300", "400", "0"]


async def test_ulimits_beyond_the_hosts_are_lowered_with_a_warning(host: EngineHost, engine: RunningEngine) -> None:
    spec = ContainerSpec(
        image=host.image, command=("sh", "-c", "ulimit -Hn"), ulimits=(Ulimit("nofile", 1000, 2**30),), oom_score_adj=-5
    )
    made, warnings = await engine.engine.run(secrets.token_hex(8), spec, PullPolicy.MISSING, None, False)
    await engine.engine.wait(made.id, "not-running")
    limited = not rights.may(rights.SYS_RESOURCE)
    assert [warning.split(":")[0] for warning in warnings if "nofile" in warning] == ["ulimit nofile"] * limited
    assert int(await engine.logs(made.id)) == (rights_nofile() if limited else 2**30)


def rights_nofile() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def test_sysctls(engine: RunningEngine) -> None:
    names = {
        "net.ipv4.ip_forward": "0",
        "net/core/somaxconn": "77",
        "kernel.shmmax": "123456",
        "fs.mqueue.msg_max": "9",
    }
    paths = [f"/proc/sys/{name.replace('.', '/')}" for name in names]
    out, _ = await engine.output("cat", *paths, sysctls=names)
    assert out.split() == list(names.values())
    assert Path("/proc/sys/kernel/shmmax").read_text().strip() != "123456"


async def test_oom_score_and_annotations(engine: RunningEngine) -> None:
    out, _ = await engine.output("cat", "/proc/self/oom_score_adj", oom_score_adj=321, annotations={"com.example": "x"})
    assert out == "321\n"


async def test_shm_size(engine: RunningEngine) -> None:
    script = "df -k /dev/shm | tail -1; dd if=/dev/zero of=/dev/shm/x bs=1M count=5 2>&1"
    out, _ = await engine.output("sh", "-c", script, shm_size_bytes=2 << 20)
    assert out.split()[1] == "2048"
    assert "No space left" in out
    assert (await engine.output("df", "-k", "/dev/shm"))[0].splitlines()[-1].split()[1] == "65536"


async def test_tmpfs_options(engine: RunningEngine) -> None:
    mounts = (
        Mount(MountKind.TMPFS, "/plain"),
        Mount(MountKind.TMPFS, "/own", tmpfs_options=("exec", "uid=12", "gid=13", "nr_inodes=20"), tmpfs_mode=0o750),
    )
    script = (
        "stat -c '%u %g %a' /own; cp /bin/busybox /own/busybox; cp /bin/busybox /plain/busybox;"
        "/own/busybox echo ran; /plain/busybox echo 2>&1"
    )
    out, _ = await engine.output("sh", "-c", script, mounts=mounts)
    assert out.splitlines()[:2] == ["12 13 750", "ran"]
    assert "Permission denied" in out


# --- control groups ---------------------------------------------------------------------------------------------------


async def test_memory_limits(host: EngineHost, engine: RunningEngine) -> None:
    limits = Resources(
        memory_bytes=64 << 20, memory_swap_bytes=96 << 20, memory_reservation_bytes=32 << 20, memory_swappiness=7,
        oom_kill_disable=True,
    )  # fmt: skip
    made = await engine.run("sleep", "1000", resources=limits)
    if not V1:
        assert control(host, made, "memory", "memory.swap.max") == str(32 << 20)
        return
    wanted = {
        "memory.limit_in_bytes": 64 << 20,
        "memory.memsw.limit_in_bytes": 96 << 20,
        "memory.soft_limit_in_bytes": 32 << 20,
        "memory.swappiness": 7,
    }
    assert {name: int(control(host, made, "memory", name)) for name in wanted} == wanted
    assert "oom_kill_disable 1" in control(host, made, "memory", "memory.oom_control")


async def test_processors_are_limited_and_told_inside(host: EngineHost, engine: RunningEngine) -> None:
    limits = Resources(cpu_shares=333, cpu_period=50_000, cpu_quota=5_000, cpuset_cpus="1", cpuset_mems="0")
    made = await engine.run(
        "sh", "-c", "nproc; grep Cpus_allowed_list /proc/self/status; while :; do :; done", resources=limits
    )
    seconds = 1.0
    await asyncio.sleep(seconds)
    assert os.sched_getaffinity(made.pid) == {1}
    if V1:
        assert control(host, made, "cpu", "cpu.shares") == "333"
        assert control(host, made, "cpu", "cpu.cfs_quota_us") == "5000"
        assert control(host, made, "cpu", "cpu.cfs_period_us") == "50000"
        assert control(host, made, "cpuset", "cpuset.cpus") == "1"
    throttled = dict(line.split() for line in control(host, made, "cpu", "cpu.stat").splitlines())
    assert int(throttled["nr_throttled"]) > 3
    await engine.engine.stop(made.id, 0, "")
    assert (await engine.logs(made.id)).split() == ["1", "Cpus_allowed_list:", "1"]


async def test_the_limit_of_processes_is_hit(engine: RunningEngine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done; wait"
    out, _ = await engine.output("sh", "-c", script, resources=Resources(pids_limit=8))
    assert "can't fork" in out


async def test_block_devices_are_limited(host: EngineHost, engine: RunningEngine) -> None:
    disks = [path for path in Path("/sys/block").iterdir() if not path.name.startswith(("loop", "zram", "ram"))]
    disk = f"/dev/{disks[0].name}"
    limits = Resources(device_read_bps=(BlkioLimit(disk, 1 << 20),), device_write_iops=(BlkioLimit(disk, 50),))
    made = await engine.run("sleep", "1000", resources=limits)
    if V1:
        number = (disks[0] / "dev").read_text().strip()
        assert control(host, made, "blkio", "blkio.throttle.read_bps_device") == f"{number} {1 << 20}"
        assert control(host, made, "blkio", "blkio.throttle.write_iops_device") == f"{number} 50"
    with pytest.raises(InvalidArgument) as caught:
        await engine.run("true", resources=Resources(device_read_bps=(BlkioLimit("/dev/null", 5),)))
    assert caught.value.reason == "NOT_A_DEVICE"


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("userns", ["", "host"])
async def test_devices(engine: RunningEngine, userns: str) -> None:
    devices = (Device("/dev/kmsg", "/dev/log-of-kernel", "r"), Device("/dev/loop-control"))
    script = (
        "stat -c '%t:%T %u %g' /dev/log-of-kernel /dev/loop-control; exec 3</dev/loop-control && echo opened;"
        "(echo x > /dev/log-of-kernel) 2>&1; ls /dev/fuse 2>&1"
    )
    out, _ = await engine.output("sh", "-c", script, devices=devices, userns=userns)
    lines = out.splitlines()
    control_node = os.stat("/dev/loop-control")
    assert lines[0].split()[0] == "1:b"
    assert lines[1].split() == [
        f"{os.major(control_node.st_rdev):x}:{os.minor(control_node.st_rdev):x}",
        str(control_node.st_uid), str(control_node.st_gid),
    ]  # fmt: skip
    assert lines[2] == "opened"
    assert "not permitted" in lines[3]
    assert "No such file" in lines[4]


async def test_device_directories_and_rules(engine: RunningEngine, tmp_path: Path) -> None:
    os.mknod(tmp_path / "one", 0o20666, os.makedev(1, 11))
    (tmp_path / "sub").mkdir()
    os.mknod(tmp_path / "sub/two", 0o20666, os.makedev(10, 237))
    out, _ = await engine.output("find", "/dev/things", "-type", "c", devices=(Device(str(tmp_path), "/dev/things"),))
    assert sorted(out.split()) == ["/dev/things/one", "/dev/things/sub/two"]
    made = "mknod /dev/mine c 1 11 && cat < /dev/mine > /dev/null 2>&1 & sleep 0.3; kill %1 2>/dev/null && echo read"
    refused, _ = await engine.output("sh", "-c", "mknod /dev/mine c 10 237; exec 3</dev/mine", userns="host")
    assert "not permitted" in refused
    allowed, end = await engine.output(
        "sh", "-c", "mknod /dev/mine c 10 237; exec 3</dev/mine", userns="host", device_cgroup_rules=("c 10:* rwm",)
    )
    assert end.exit_code == 0, allowed + made


async def test_missing_devices_are_told_before_anything_is_made(engine: RunningEngine) -> None:
    for path, reason in (("/dev/nothing", "DEVICE_MISSING"), ("/etc/passwd", "NOT_A_DEVICE")):
        with pytest.raises(InvalidArgument) as caught:
            await engine.run("true", devices=(Device(path),))
        assert caught.value.reason == reason
    with pytest.raises(InvalidArgument) as unknown:
        await engine.run("true", cdi_devices=("example.com/none=0",))
    assert unknown.value.reason == "UNKNOWN_CDI_DEVICE"
    assert not engine.host.state.containers()


async def test_after_a_reboot_who_joins_waits_for_the_other(host: EngineHost) -> None:
    always = RestartPolicy(RestartPolicyName.ALWAYS)
    async with host.engine() as before:
        # Named so that the one that joins may well be tried first.
        first = await before.run("sleep", "1000", name="z-first", restart_policy=always)
        second = await before.run("sleep", "1000", name="a-joins", network="container:z-first", restart_policy=always)
    await host.reboot()
    async with host.engine() as after:
        async with asyncio.timeout(30):
            while not all([(await after.state(each.id)).pid for each in (first, second)]):
                await asyncio.sleep(0.05)
        pids = [(await after.state(each.id)).pid for each in (first, second)]
        networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}
        assert len(networks) == 1
        await after.remove_all()
        await host.settled()
