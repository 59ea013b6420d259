"""What every container runtime does: the fake, and conmon with crun and with runc, in user namespaces or not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, ShoalError
from shoald.host import cgroups
from shoald.host.controllers import MountedControllers, unmount_unused
from shoald.host.kernel import kernel_version
from shoald.host.limits import LimitFile
from shoald.host.mounts import MountFlags, mount, unmount
from shoald.host.seccomp import linux_seccomp, load_profile, tightened
from shoald.model.container import MountKind, Resources
from shoald.model.log import LogQuery
from shoald.runtime import monitor
from shoald.runtime.capabilities import DEFAULT_CAPABILITIES
from shoald.runtime.conmon import ConmonRuntime
from shoald.runtime.log import read_log
from shoald.runtime.logchain import rotated_path
from shoald.runtime.mounts import HostMount
from shoald.runtime.ports import Bundle, ContainerRuntime, Exit
from shoald.runtime.probe import OciRuntime, choose_runtime, probe_runtime, program_version
from shoald.runtime.resources import HostLimits
from shoald.runtime.spec import SpecInput, runtime_config
from shoald.runtime.user import resolve_user
from tests.support.busybox_root import make_root
from tests.support.fake_runtime import FakeRuntime
from tests.support.runtime_records import container_record

USERNS_BASE = 0x70000000
REAL = ["crun", "crun-userns", "runc", "runc-userns"]
_NUMBERS = itertools.count()


@dataclass
class Host:
    """A runtime under test, with what a caller keeps of its containers."""

    runtime: ContainerRuntime
    directory: Path
    userns_base: int = 0
    cgroup: str = ""
    ids: list[str] = field(default_factory=list)
    exits: AsyncIterator[Exit] | None = None
    seen: dict[str, Exit] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        return isinstance(self.runtime, ConmonRuntime)

    def log(self, container_id: str) -> Path:
        return self.directory / f"{container_id}.log"

    def bundle(self, args: Sequence[str], **record: Any) -> Bundle:
        container_id = f"{next(_NUMBERS):04d}{secrets.token_hex(12)}"
        self.ids.append(container_id)
        root = self.runtime.bundle_dir(container_id) / "rootfs"
        if self.real:
            make_root(root, owner=self.userns_base)
        tty, stdin_open = record.get("tty", False), record.get("stdin_open", False)
        record.setdefault("network", "none")
        mounts = record.pop("mounts", ())
        container = container_record(args, container_id=container_id, userns_base=self.userns_base, **record)
        given = SpecInput(
            container=container,
            user=resolve_user(record.get("user", ""), root),
            rootfs=str(root),
            mounts=mounts,
            cgroup_path=f"{self.cgroup}/{container_id}",
            init_path="/usr/bin/catatonit",
            limits=HostLimits(
                hard_limits={"nofile": 4096}, swap=Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
            ),
        )
        return Bundle(container_id, runtime_config(given), root, self.log(container_id), tty, stdin_open)

    async def start(self, args: Sequence[str], **record: Any) -> str:
        bundle = self.bundle(args, **record)
        created = await self.runtime.create(bundle)
        assert self.runtime.running_pid(bundle.container_id) == created
        await self.runtime.start(bundle.container_id)
        return bundle.container_id

    async def launch(self, bundle: Bundle) -> None:
        await self.runtime.create(bundle)
        await self.runtime.start(bundle.container_id)

    async def exit(self, container_id: str) -> Exit:
        assert self.exits is not None
        async with asyncio.timeout(30):
            while container_id not in self.seen:
                ended = await anext(self.exits)
                self.seen[ended.container_id] = ended
        return self.seen[container_id]

    async def run(self, args: Sequence[str], **record: Any) -> tuple[int, str]:
        container_id = await self.start(args, **record)
        ended = await self.exit(container_id)
        return ended.exit_code, await self.output(container_id)

    async def output(self, container_id: str, **query: Any) -> str:
        batches = [batch async for batch in read_log(self.log(container_id), LogQuery(**query))]
        return b"".join(record.data for batch in batches for record in batch.records).decode()

    async def until_output(self, container_id: str, text: str) -> str:
        async with asyncio.timeout(20):
            said = b""
            async for batch in read_log(self.log(container_id), LogQuery(follow=True)):
                said += b"".join(record.data for record in batch.records)
                if text in said.decode():
                    break
        return said.decode()


@pytest.fixture(scope="module")
def all_controllers() -> Iterator[None]:
    """crun wants every controller of a hybrid host in a hierarchy of version 1."""
    controllers = MountedControllers()
    if os.geteuid() == 0:
        controllers.mount()
    yield
    controllers.close()
    unmount_unused()


async def _host(kind: str, directory: Path) -> AsyncIterator[Host]:
    if kind == "fake":
        host = Host(FakeRuntime(directory / "run"), directory)
        host.exits = host.runtime.exits()
        yield host
        return
    name, _, userns = kind.partition("-")
    if shutil.which(name) is None or shutil.which("conmon") is None:
        pytest.skip(f"{name} or conmon is not installed")
    run_dir = Path("/run") / f"shoal-test-{secrets.token_hex(4)}"
    parent = f"/shoal-test-{secrets.token_hex(4)}"
    runtime = ConmonRuntime(await probe_runtime(name), conmon="/usr/bin/conmon", run_dir=run_dir)
    host = Host(runtime, directory, USERNS_BASE if userns else 0, parent)
    directory.chmod(0o755)
    host.exits = runtime.exits()
    try:
        yield host
        for container_id in host.ids:
            await runtime.delete(container_id)
        assert not _processes_naming(str(run_dir)), "a monitor or a runtime is left"
        assert not list((run_dir / "oci").iterdir())
        assert not list((run_dir / "exits").iterdir())
        assert not list((run_dir / "tty").iterdir())
        found = cgroups.detect()
        left = [path for directory in found.paths(parent) if directory.is_dir() for path in directory.iterdir()]
        assert not [path for path in left if path.is_dir()], "a cgroup is left"
        assert str(run_dir) not in Path("/proc/self/mountinfo").read_text()
    finally:
        await host.exits.aclose()  # type: ignore[attr-defined]
        assert isinstance(host.runtime, ConmonRuntime)
        host.runtime.close()
        runtime.close()
        with contextlib.suppress(ShoalError):
            for container_id in host.ids:
                await runtime.delete(container_id)
        found = cgroups.detect()
        await cgroups.kill(found, parent)
        await cgroups.remove(found, parent)
        shutil.rmtree(run_dir)


def _processes_naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if text.encode() in line:
                    found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.root) for kind in REAL)])
async def host(request: pytest.FixtureRequest, tmp_path: Path, all_controllers: None) -> AsyncIterator[Host]:
    async for made in _remove_roots(_host(request.param, tmp_path)):
        yield made


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.root) for kind in REAL])
async def real(request: pytest.FixtureRequest, tmp_path: Path, all_controllers: None) -> AsyncIterator[Host]:
    async for made in _remove_roots(_host(request.param, tmp_path)):
        yield made


async def _remove_roots(hosts: AsyncIterator[Host]) -> AsyncIterator[Host]:
    async for made in hosts:
        yield made
        for container_id in made.ids:
            with contextlib.suppress(ShoalError):
                await made.runtime.kill_all(container_id)
            root = made.runtime.bundle_dir(container_id) / "rootfs"
            for entry in root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


# What the fake does too.


async def test_exit_code_output_and_times(host: Host) -> None:
    code = await host.exit(first := await host.start(["exit", "0"] if not host.real else ["sh", "-c", "exit 0"]))
    assert code.exit_code == 0
    assert not code.oom_killed
    assert host.runtime.exit_of(first) == code
    assert host.runtime.running_pid(first) is None
    other = await host.run(["exit", "7"] if not host.real else ["sh", "-c", "exit 7"])
    assert other[0] == 7
    assert await host.run(["echo", "hello", "world"]) == (0, "hello world\n")


async def test_unknown_command_is_not_found_and_leaves_nothing(host: Host) -> None:
    bundle = host.bundle(["no-such-program"])
    with pytest.raises(FailedPrecondition, match="no-such-program") as caught:
        await host.launch(bundle)
    assert caught.value.reason == "COMMAND_NOT_FOUND"
    assert host.runtime.running_pid(bundle.container_id) is None
    assert host.runtime.exit_of(bundle.container_id) is None


async def test_kill_tells_the_signal(host: Host) -> None:
    container_id = await host.start(["sleep", "60"])
    assert await host.runtime.kill(container_id, signal.SIGKILL)
    assert (await host.exit(container_id)).exit_code == 137
    assert not await host.runtime.kill(container_id, signal.SIGKILL)
    assert not await host.runtime.kill("nosuchcontainer", signal.SIGKILL)


async def test_kill_all(host: Host) -> None:
    container_id = await host.start(["sleep", "60"])
    await host.runtime.kill_all(container_id)
    assert (await host.exit(container_id)).exit_code == 137
    await host.runtime.kill_all(container_id)


async def test_created_but_not_started_is_running_and_deletable(host: Host) -> None:
    started = await host.start(["sleep", "60"])
    assert await host.runtime.is_started(started)
    bundle = host.bundle(["true"])
    created = await host.runtime.create(bundle)
    assert host.runtime.running_pid(bundle.container_id) == created
    assert not await host.runtime.is_started(bundle.container_id)
    assert host.runtime.exit_of(bundle.container_id) is None
    await host.runtime.delete(bundle.container_id)
    assert host.runtime.running_pid(bundle.container_id) is None
    await host.runtime.delete(bundle.container_id)


async def test_delete_ends_a_running_container(host: Host) -> None:
    container_id = await host.start(["sleep", "60"])
    await host.runtime.delete(container_id)
    assert host.runtime.running_pid(container_id) is None
    assert host.runtime.exit_of(container_id) is None


async def test_stdin_is_echoed_and_ends(host: Host) -> None:
    container_id = await host.start(["cat"], stdin_open=True)
    async with host.runtime.attach_stdin(container_id) as writer:
        await writer.write(b"one\n")
    async with host.runtime.attach_stdin(container_id) as writer, host.runtime.attach_stdin(container_id) as other:
        await writer.write(b"two\n")
        await other.write(b"three\n")
        await other.close()
        with pytest.raises(FailedPrecondition):
            await writer.write(b"late\n")
    assert (await host.exit(container_id)).exit_code == 0
    assert await host.output(container_id) == "one\ntwo\nthree\n"
    with pytest.raises(FailedPrecondition):
        async with host.runtime.attach_stdin(container_id) as writer:
            await writer.write(b"gone\n")


async def test_stdin_that_was_not_asked_for_is_refused(host: Host) -> None:
    container_id = await host.start(["sleep", "60"])
    with pytest.raises(FailedPrecondition, match="input"):
        async with host.runtime.attach_stdin(container_id):
            pass


async def test_resize_needs_a_running_container(host: Host) -> None:
    with pytest.raises(FailedPrecondition):
        await host.runtime.resize("nosuchcontainer", 24, 80)


async def test_pause_and_resume(host: Host) -> None:
    container_id = await host.start(["sleep", "1000"])
    assert not host.runtime.paused(container_id)
    for _ in range(2):
        await host.runtime.pause(container_id)
        assert host.runtime.paused(container_id)
        assert await host.runtime.is_started(container_id)
    # A signal waits until it is thawed.
    await host.runtime.kill(container_id, signal.SIGKILL)
    for _ in range(2):
        with contextlib.suppress(FailedPrecondition):
            await host.runtime.resume(container_id)
    assert (await host.exit(container_id)).exit_code == 137
    for call in (host.runtime.pause, host.runtime.resume):
        with pytest.raises(FailedPrecondition) as caught:
            await call(container_id)
        assert caught.value.reason == "NOT_RUNNING"
    assert not host.runtime.paused(container_id)


@pytest.mark.parametrize("how", ["kill_all", "delete"])
async def test_the_end_of_what_is_paused(host: Host, how: str) -> None:
    container_id = await host.start(["sleep", "1000"])
    await host.runtime.pause(container_id)
    if how == "kill_all":
        await host.runtime.kill_all(container_id)
        assert (await host.exit(container_id)).exit_code == 137
    else:
        await host.runtime.delete(container_id)
    assert host.runtime.running_pid(container_id) is None


async def test_limits_change_while_it_runs(host: Host) -> None:
    container_id = await host.start(["sleep", "1000"])
    await host.runtime.set_limits(container_id, [LimitFile("pids", "pids.max", "33")], 1 << 30)
    if host.real:
        found = cgroups.detect().path(f"{host.cgroup}/{container_id}", "pids")
        assert found is not None
        assert (found / "pids.max").read_text().strip() == "33"
        with pytest.raises(FailedPrecondition) as caught:
            await host.runtime.set_limits(container_id, [LimitFile("pids", "pids.max", "44")], 1)
        assert caught.value.reason == "MEMORY_IN_USE"
        assert (found / "pids.max").read_text().strip() == "33"
    await host.runtime.delete(container_id)
    with pytest.raises(FailedPrecondition) as caught:
        await host.runtime.set_limits(container_id, [LimitFile("pids", "pids.max", "1")])
    assert caught.value.reason == "NOT_RUNNING"


async def test_a_log_is_not_reopened_for_one_that_is_gone(host: Host) -> None:
    assert not await host.runtime.reopen_log("nosuchcontainer")


# Real containers only.


async def test_exec_failures_are_told(real: Host) -> None:
    for args, reason in (
        (["/no/such/file"], "COMMAND_NOT_FOUND"),
        (["/etc/passwd"], "COMMAND_NOT_EXECUTABLE"),
        (["/bin"], "COMMAND_NOT_EXECUTABLE"),
    ):
        bundle = real.bundle(args)
        with pytest.raises(FailedPrecondition) as caught:
            await real.launch(bundle)
        assert (caught.value.reason, caught.value.metadata["command"]) == (reason, args[0])


async def test_configuration_that_the_runtime_refuses(real: Host) -> None:
    bundle = real.bundle(["true"])
    bundle.config["mounts"].append(
        {"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["rbind"]}
    )
    with pytest.raises(Internal, match="/no/such/source") as caught:
        await real.runtime.create(bundle)
    assert caught.value.reason == "RUNTIME_FAILED"


@pytest.mark.parametrize("fd", [0, 3, 7, 8, 9, 10, 1023])
async def test_working_directory_at_a_descriptor_is_refused(real: Host, fd: int) -> None:
    link = real.bundle(["pwd"])
    (link.rootfs / "way").symlink_to(f"proc/self/fd/{fd}")
    (link.rootfs / "proc/self/fd").mkdir(parents=True)
    (link.rootfs / f"proc/self/fd/{fd}").mkdir()
    for cwd in ("/way", "/way/..", f"/proc/self/fd/{fd}", f"/dev/fd/{fd}", "/tmp/../way/../../way"):
        link.config["process"]["cwd"] = cwd
        with pytest.raises(InvalidArgument) as caught:
            await real.runtime.create(link)
        assert caught.value.reason == "INVALID_WORKDIR"


async def test_only_stdio_is_open_inside(real: Host) -> None:
    for record in ({}, {"stdin_open": True}, {"tty": True, "stdin_open": True}):
        container_id = await real.start(["sh", "-c", "ls /proc/1/fd; sleep 60"], **record)
        said = await real.until_output(container_id, "2")
        # A shell keeps its terminal at descriptor 10.
        assert set(said.split()) - {"10"} == {"0", "1", "2"}


async def test_nobody_is_privileged_inside(real: Host) -> None:
    _, status = await real.run(["cat", "/proc/self/status"])
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapBnd"] == "00000000a80425fb"
    assert fields["CapInh"] == fields["CapAmb"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"
    _, status = await real.run(["cat", "/proc/self/status"], user="app")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["CapEff"], fields["CapPrm"], fields["CapBnd"]) == ("0" * 16, "0" * 16, "00000000a80425fb")
    assert fields["Uid"].split()[0] == "1000"
    assert fields["Gid"].split()[0] == "1001"
    assert sorted(fields["Groups"].split()) == ["1001", "2000"]
    null = os.stat("/dev/null")
    assert (null.st_uid, null.st_gid, null.st_mode & 0o7777) == (0, 0, 0o666)


async def test_system_calls_are_filtered(real: Host) -> None:
    loaded = load_profile()
    if loaded.document is None:
        pytest.skip(loaded.warning)
    filters = linux_seccomp(tightened(loaded.document), DEFAULT_CAPABILITIES, os.uname().machine, kernel_version())
    script = (
        "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted; busybox unshare -U true && echo own;"
        "busybox chroot / true && echo chroot; busybox dmesg >/dev/null && echo log; true"
    )
    bundle = real.bundle(["sh", "-c", script])
    bundle.config["linux"]["seccomp"] = filters
    await real.launch(bundle)
    assert (await real.exit(bundle.container_id)).exit_code == 0
    assert (await real.output(bundle.container_id, stderr=False)).split() == ["Seccomp:", "2", "chroot"]


async def test_ids_are_mapped_in_a_user_namespace(real: Host) -> None:
    _, mapping = await real.run(["cat", "/proc/self/uid_map"])
    expected = ["0", str(USERNS_BASE), "65536"] if real.userns_base else ["0", "0", "4294967295"]
    assert mapping.split() == expected


async def test_masked_and_read_only_paths(real: Host) -> None:
    script = (
        "for f in kcore keys timer_list sched_debug interrupts latency_stats; do"
        '  [ ! -e /proc/$f ] || [ -z "$(head -c1 /proc/$f 2>/dev/null)" ] || echo readable $f; done;'
        "for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do"
        '  [ ! -e $d ] || [ -z "$(ls $d)" ] || echo listed $d; done;'
        "for f in /proc/sysrq-trigger /proc/sys/kernel/domainname /sys/kernel/mm/transparent_hugepage/enabled"
        "  /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max /proc/irq/default_smp_affinity; do"
        "  [ ! -e $f ] || ! (echo 1 > $f) 2>/dev/null || echo writable $f; done;"
        "for d in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/devices; do"
        "  [ ! -e $d/cgroup.procs ] || ! mkdir $d/x 2>/dev/null || echo cgroup $d; done; true"
    )
    assert await real.run(["sh", "-c", script]) == (0, "")
    name = "memory.max" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "memory/memory.limit_in_bytes"
    limits = Resources(memory_bytes=64 << 20)
    assert await real.run(["cat", f"/sys/fs/cgroup/{name}"], resources=limits) == (0, f"{64 << 20}\n")


async def test_evil_dev_and_proc_in_the_image(real: Host) -> None:
    bundle = real.bundle(["sh", "-c", "ls -l /dev/null; head -c1 /proc/kcore; echo done"])
    canary = real.directory / "canary"
    canary.mkdir()
    for name in ("dev", "proc"):
        (bundle.rootfs / name).rmdir()
        (bundle.rootfs / name).symlink_to(canary)
    with contextlib.suppress(ShoalError):
        await real.runtime.create(bundle)
        await real.runtime.start(bundle.container_id)
        await real.exit(bundle.container_id)
        assert "done" in await real.output(bundle.container_id)
    await real.runtime.kill_all(bundle.container_id)
    assert list(canary.iterdir()) == []
    for name in ("dev", "proc"):
        path = bundle.rootfs / name
        if path.is_symlink():
            path.unlink()


async def test_runtime_binary_survives_proc_self_exe(real: Host) -> None:
    before = Path(real.runtime.name).read_bytes()
    script = "#!/proc/self/exe\n"
    bundle = real.bundle(["/entry"])
    (bundle.rootfs / "entry").write_text(script)
    (bundle.rootfs / "entry").chmod(0o755)
    with contextlib.suppress(ShoalError):
        await real.runtime.create(bundle)
        await real.runtime.start(bundle.container_id)
        await real.exit(bundle.container_id)
    writer = "for i in $(seq 300); do for p in /proc/[0-9]*/exe; do (echo x > $p) 2>/dev/null; done; done; true"
    await real.run(["sh", "-c", writer])
    assert Path(real.runtime.name).read_bytes() == before


async def test_sysctls_and_limits(real: Host) -> None:
    script = (
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range;"
        "ulimit -n; ulimit -Hn; hostname; pwd; echo $HOME; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2"
    )
    code, said = await real.run(
        ["sh", "-c", script.replace("df -k", "busybox df -k").replace("cut", "busybox cut")],
        hostname="box",
        working_dir="/new/dir",
    )
    highest = "65535" if real.userns_base else "2147483647"
    assert (code, said.split()) == (0, ["0", "0", highest, "1024", "4096", "box", "/new/dir", "/root", "65536"])


async def test_host_network(real: Host) -> None:
    code, said = await real.run(["sh", "-c", "readlink /proc/self/ns/net; ls /sys/class/net | head -1"], network="host")
    assert code == 0
    assert said.split()[0] == os.readlink("/proc/self/ns/net")
    assert "net.ipv4.ping_group_range" not in said


async def test_read_only_root(real: Host) -> None:
    code, said = await real.run(["sh", "-c", "touch /tmp/x 2>&1; touch /dev/shm/x && echo shm"], read_only=True)
    assert (code, "Read-only" in said, "shm" in said) == (0, True, True)


async def test_mounts(real: Host) -> None:
    source = real.directory / "source"
    (source / "below").mkdir(parents=True)
    source.chmod(0o777)
    (source / "below").chmod(0o777)
    mount("tmpfs", source / "below", "tmpfs", MountFlags.NOSUID, "mode=777")
    try:
        script = (
            "touch /rw/a /rw/below/b && echo rw; touch /ro/c 2>/dev/null; touch /ro/below/d 2>/dev/null;"
            "ls /ro/below; stat -c %a /tmpfs; dd if=/dev/zero of=/tmpfs/big bs=1M count=2 2>/dev/null || echo full"
        )
        mounts = (
            HostMount(MountKind.BIND, "/rw", str(source)),
            HostMount(MountKind.BIND, "/ro", str(source), read_only=True),
            HostMount(MountKind.TMPFS, "/tmpfs", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o750),
        )
        code, said = await real.run(["sh", "-c", script.replace("stat", "busybox stat")], mounts=mounts)
        assert (code, said.split()) == (0, ["rw", "b", "750", "full"])
        assert sorted(path.name for path in source.iterdir()) == ["a", "below"]
    finally:
        unmount(source / "below")


async def test_memory_limit_kills_and_is_told(real: Host) -> None:
    container_id = await real.start(
        ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"], resources=Resources(memory_bytes=32 << 20)
    )
    ended = await real.exit(container_id)
    assert (ended.exit_code, ended.oom_killed) == (137, True)


async def test_pids_limit(real: Host) -> None:
    code, said = await real.run(
        ["sh", "-c", "for i in $(seq 40); do sleep 5 & done 2>&1; true"], resources=Resources(pids_limit=10)
    )
    assert "fork" in said or code != 0


async def test_init_reaps_and_forwards(real: Host) -> None:
    container_id = await real.start(
        ["sh", "-c", "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"], init=True
    )
    await real.until_output(container_id, "up")
    assert await real.runtime.kill(container_id, signal.SIGTERM)
    assert (await real.exit(container_id)).exit_code == 5
    assert await real.output(container_id) == "up\ngot\n"


async def test_a_log_is_opened_anew_without_losing_a_line(real: Host) -> None:
    script = "n=0; while [ $n -lt 20000 ]; do echo $n; n=$((n+1)); done; read end"
    container_id = await real.start(["sh", "-c", script], stdin_open=True)
    log = real.log(container_id)
    for number in range(1, 4):
        await asyncio.sleep(0.02)
        os.rename(log, rotated_path(log, number))
        assert await real.runtime.reopen_log(container_id)
        async with asyncio.timeout(10):
            while not log.exists():
                await asyncio.sleep(0.001)
    async with asyncio.timeout(30):
        while "19999" not in await real.output(container_id):
            await asyncio.sleep(0.05)
    assert (await real.output(container_id)).split() == [str(n) for n in range(20_000)]
    await real.runtime.kill_all(container_id)
    for number in range(1, 4):
        rotated_path(log, number).unlink()


async def test_terminal(real: Host) -> None:
    container_id = await real.start(
        ["sh", "-c", "read line; stty size; echo got $line; read line; echo end $?"], tty=True, stdin_open=True
    )
    await real.runtime.resize(container_id, 33, 77)
    async with real.runtime.attach_stdin(container_id) as writer:
        await asyncio.sleep(0.05)
        await writer.write(b"hello\n")
        said = await real.until_output(container_id, "got hello")
        assert "33 77" in said
        await writer.close()
    assert (await real.exit(container_id)).exit_code == 0
    assert "end 1" in await real.output(container_id)


async def test_streams_are_told_apart(real: Host) -> None:
    container_id = await real.start(["sh", "-c", "echo out; echo err >&2; printf part"])
    await real.exit(container_id)
    assert len(await real.output(container_id)) == len("out\nerr\npart")
    assert await real.output(container_id, stderr=False) == "out\npart"
    assert await real.output(container_id, stdout=False) == "err\n"


async def test_unread_attachment_does_not_block_the_container(real: Host) -> None:
    container_id = await real.start(["sh", "-c", "read line; yes abcdefg | head -c 4000000; echo end"], stdin_open=True)
    async with real.runtime.attach_stdin(container_id) as writer:
        await writer.write(b"go\n")
        assert (await real.exit(container_id)).exit_code == 0
    assert len(await real.output(container_id)) == 4_000_004


async def test_input_that_is_not_read_holds_the_writer_and_nobody_else(real: Host) -> None:
    script = "for i in $(seq 20); do echo $i; done; sleep 0.3; echo reading; wc -c"
    container_id = await real.start(["sh", "-c", script], stdin_open=True)
    blocks = [bytes([65 + i % 26]) * 8192 for i in range(256)]
    async with real.runtime.attach_stdin(container_id) as writer:
        for block in blocks:
            await writer.write(block)
        await writer.close()
    assert (await real.exit(container_id)).exit_code == 0
    assert (await real.output(container_id)).split()[-2:] == ["reading", str(256 * 8192)]


async def test_container_that_closes_its_input(real: Host) -> None:
    container_id = await real.start(["sh", "-c", "exec 0<&-; echo closed; sleep 0.3; echo end"], stdin_open=True)
    await real.until_output(container_id, "closed")
    with contextlib.suppress(FailedPrecondition):
        async with real.runtime.attach_stdin(container_id) as writer:
            async with asyncio.timeout(5):
                await writer.write(b"x" * 100)
    assert (await real.exit(container_id)).exit_code == 0
    assert (await real.output(container_id)).split() == ["closed", "end"]


async def test_a_new_daemon_knows_the_containers(real: Host) -> None:
    """Including their input: it was attached, and stays open when the old daemon's descriptors are gone."""
    container_id = await real.start(["cat"], stdin_open=True)
    short = await real.start(["sh", "-c", "sleep 0.2; exit 3"])
    old = real.runtime
    assert isinstance(old, ConmonRuntime)
    async with old.attach_stdin(container_id) as writer:
        await writer.write(b"before\n")
        await real.until_output(container_id, "before")
    created = old.running_pid(container_id)
    old.close()
    new = ConmonRuntime(await probe_runtime(old.name), conmon="/usr/bin/conmon", run_dir=old.run_dir)
    real.runtime = new
    await asyncio.sleep(0.4)
    assert new.running_pid(container_id) == created
    ended = new.exit_of(short)
    assert ended is not None
    assert ended.exit_code == 3
    async with new.attach_stdin(container_id) as writer:
        await writer.write(b"after\n")
        await writer.close()
    assert (await real.exit(container_id)).exit_code == 0
    assert await real.output(container_id) == "before\nafter\n"


async def test_attaching_again_and_again_keeps_nothing_open(real: Host) -> None:
    container_id = await real.start(["cat"], stdin_open=True)
    async with real.runtime.attach_stdin(container_id) as writer:
        await writer.write(b"x\n")
        await real.until_output(container_id, "x")
    monitor_fds = Path(f"/proc/{(real.runtime.bundle_dir(container_id) / 'conmon.pid').read_text()}/fd")
    before = len(os.listdir("/proc/self/fd")), len(list(monitor_fds.iterdir()))
    for _ in range(1000):
        async with real.runtime.attach_stdin(container_id):
            pass
    assert (len(os.listdir("/proc/self/fd")), len(list(monitor_fds.iterdir()))) == before


async def test_runtime_that_hangs(real: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation that takes too long is ended, with the monitor and all that it started."""
    monkeypatch.setattr(monitor, "CREATE_SECONDS", 0.3)
    good = real.runtime
    assert isinstance(good, ConmonRuntime)
    slow = real.directory / "runtime"
    slow.write_text("#!/bin/sh\nsleep 77 & sleep 77\n")
    slow.chmod(0o755)
    hanging = ConmonRuntime(OciRuntime("slow", str(slow), "1"), conmon="/usr/bin/conmon", run_dir=good.run_dir)
    bundle = real.bundle(["true"])
    with pytest.raises(DeadlineExceeded):
        await hanging.create(bundle)
    assert not _processes_naming(bundle.container_id)
    assert not _processes_naming("sleep\00077")


async def test_monitor_that_is_missing(real: Host) -> None:
    good = real.runtime
    assert isinstance(good, ConmonRuntime)
    broken = ConmonRuntime(await probe_runtime(good.name), conmon="/no/conmon", run_dir=good.run_dir)
    with pytest.raises(FailedPrecondition) as caught:
        await broken.create(real.bundle(["true"]))
    assert caught.value.reason == "PROGRAM_MISSING"


async def test_killed_monitor(real: Host) -> None:
    container_id = await real.start(["sleep", "60"])
    monitor = int((real.runtime.bundle_dir(container_id) / "conmon.pid").read_text())
    os.kill(monitor, signal.SIGKILL)
    ended = await real.exit(container_id)
    assert ended.exit_code == 255
    assert real.runtime.running_pid(container_id) is None


async def test_twenty_at_once(real: Host) -> None:
    ids = await asyncio.gather(*(real.start(["sh", "-c", f"echo {n}; exit {n}"]) for n in range(20)))
    for number, container_id in enumerate(ids):
        assert (await real.exit(container_id)).exit_code == number
        assert await real.output(container_id) == f"{number}\n"
    await asyncio.gather(*(real.runtime.delete(container_id) for container_id in ids[:10]))


@pytest.mark.parametrize("delay_ms", [0, 0.5, 1, 2, 4, 6, 8, 12, 16, 24])
async def test_cancelled_creation_leaves_nothing(real: Host, delay_ms: float) -> None:
    bundle = real.bundle(["sleep", "60"], stdin_open=True)
    task = asyncio.ensure_future(real.runtime.create(bundle))
    await asyncio.sleep(delay_ms / 1000)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
        return
    assert real.runtime.running_pid(bundle.container_id) is None
    assert [path.name for path in bundle.rootfs.parent.iterdir()] == ["rootfs"]
    assert not _processes_naming(bundle.container_id)


_CRASHING = """
import asyncio, sys
from pathlib import Path
import msgspec
from shoald.runtime.conmon import ConmonRuntime
from shoald.runtime.ports import Bundle
from shoald.runtime.probe import OciRuntime

async def main():
    given = msgspec.json.decode(sys.stdin.buffer.read())
    runtime = ConmonRuntime(OciRuntime(**given["runtime"]), conmon="/usr/bin/conmon", run_dir=Path(given["run_dir"]))
    bundle = msgspec.convert(given["bundle"], Bundle, dec_hook=lambda kind, value: kind(value))
    print("ready", flush=True)
    await runtime.create(bundle)
    await runtime.start(bundle.container_id)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("delay_ms", [1, 3, 5, 8, 12, 18, 30])
async def test_what_a_killed_daemon_began_can_be_deleted(real: Host, delay_ms: float) -> None:
    bundle = real.bundle(["sleep", "60"], stdin_open=True)
    runtime = real.runtime
    assert isinstance(runtime, ConmonRuntime)
    given = {"runtime": await probe_runtime(runtime.name), "run_dir": str(runtime.run_dir), "bundle": bundle}
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CRASHING, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write(msgspec.json.encode(given, enc_hook=str))
    daemon.stdin.close()
    assert await daemon.stdout.readline() == b"ready\n"
    await asyncio.sleep(delay_ms / 1000)
    daemon.kill()
    await daemon.wait()
    daemon._transport.close()  # type: ignore[attr-defined]
    # A new daemon takes longer than this to come up, and conmon finishes what it is at.
    await asyncio.sleep(0.2)
    await runtime.delete(bundle.container_id)
    assert not _processes_naming(bundle.container_id)


async def test_cancelled_start_and_delete(real: Host) -> None:
    bundle = real.bundle(["sleep", "60"])
    await real.runtime.create(bundle)
    for method in (real.runtime.start, real.runtime.delete):
        task = asyncio.ensure_future(method(bundle.container_id))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert real.runtime.running_pid(bundle.container_id) is None


async def test_a_container_runs_again_under_its_id(real: Host) -> None:
    bundle = real.bundle(["sh", "-c", "echo again; exit 4"])
    for _ in range(3):
        await real.runtime.create(bundle)
        await real.runtime.start(bundle.container_id)
        assert (await real.exit(bundle.container_id)).exit_code == 4
        real.seen.clear()
        assert (await anext_is_quiet(real)) is True
    assert await real.output(bundle.container_id) == "again\n" * 3


async def anext_is_quiet(host: Host) -> bool:
    """No second notice of one exit."""
    assert host.exits is not None
    try:
        async with asyncio.timeout(0.05):
            await anext(host.exits)
    except TimeoutError:
        return True
    return False


@pytest.mark.root
async def test_choice_of_runtime(all_controllers: None) -> None:
    probe = await choose_runtime("auto")
    assert (probe.runtime.name, probe.rejected) == ("crun", ())
    assert probe.runtime.version.startswith("1.")
    assert (await choose_runtime("runc")).runtime.path == shutil.which("runc")
    with pytest.raises(FailedPrecondition) as caught:
        await choose_runtime("/no/such/runtime")
    assert caught.value.reason == "NO_RUNTIME"
    assert (await program_version("/usr/bin/conmon")).startswith("2.")


@pytest.mark.root
async def test_crun_is_prepared_only_where_it_does_not_work(
    tmp_path: Path, all_controllers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_crun, asked = shutil.which("crun"), []
    stub = tmp_path / "crun"
    stub.write_text("#!/bin/sh\necho cgroups in hybrid mode not supported >&2; exit 1\n")
    stub.chmod(0o755)

    async def prepare() -> None:
        asked.append("crun")
        stub.unlink()
        stub.symlink_to(str(real_crun))

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fallback = await choose_runtime("auto")
    assert (fallback.runtime.name, fallback.rejected[0][0]) == ("runc", "crun")
    assert "hybrid mode" in fallback.rejected[0][1]
    assert (await choose_runtime("auto", prepare_crun=prepare)).runtime.name == "crun"
    assert (await choose_runtime("auto", prepare_crun=prepare)).rejected == ()
    assert asked == ["crun"]
