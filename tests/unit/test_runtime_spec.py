"""OCI runtime configurations against golden files. SHOAL_UPDATE_GOLDEN=1 writes them anew; read the difference."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidArgument
from shoald.model.container import BlkioLimit, MountKind, Resources, Ulimit
from shoald.runtime.devices import DeviceNode, Equipment
from shoald.runtime.hooks import Hook
from shoald.runtime.mounts import ContainerFiles, HostMount, merge, mount_target, user_mount
from shoald.runtime.namespaces import Joined
from shoald.runtime.resources import HostLimits, resources, unenforced
from shoald.runtime.spec import ResolvedUser, SpecInput, environment, leads_to_descriptors, runtime_config, working_dir
from shoald.runtime.ulimits import rlimits
from tests.support.runtime_records import container_record

GOLDEN = Path(__file__).parent.parent / "golden/spec"
FILES = ContainerFiles("/c/resolv.conf", "/c/hostname", "/c/hosts")
ROOT = ResolvedUser(0, 0, (0,), "/root")
KVM = DeviceNode("/dev/kvm", "c", 10, 232, 0o660, 0, 106, "rw")
SDA = {"/dev/sda": (8, 0)}
EVERY_LIMIT = Resources(
    memory_bytes=64 << 20,
    memory_swap_bytes=96 << 20,
    memory_reservation_bytes=32 << 20,
    memory_swappiness=10,
    oom_kill_disable=True,
    pids_limit=9,
    cpu_shares=1,
    cpu_period=50_000,
    cpu_quota=10_000,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    blkio_weight=300,
    device_read_bps=(BlkioLimit("/dev/sda", 1 << 20),),
    device_write_bps=(BlkioLimit("/dev/sda", 2 << 20),),
    device_read_iops=(BlkioLimit("/dev/sda", 10),),
    device_write_iops=(BlkioLimit("/dev/sda", 20),),
)
V1 = HostLimits(
    controllers=frozenset({"memory", "cpu", "cpuset", "pids", "blkio"}),
    swap=True,
    swappiness=True,
    oom_control=True,
    blkio_weight=True,
)
V2 = HostLimits(
    controllers=frozenset({"memory", "cpu", "cpuset", "pids", "io"}), swap=True, unified=True, blkio_weight=True
)

CASES: dict[str, dict[str, Any]] = {
    "default": {"record": {"userns_base": 0x70000000}},
    "host-everything": {"record": {"network": "host", "userns": "host"}},
    "host-network-userns": {"record": {"network": "host", "userns_base": 0x70000000}},
    "user-and-terminal": {
        "record": {
            "args": ["sh", "-l"],
            "env": ["PATH=/bin", "A=b=c", "HOME=/x"],
            "working_dir": "/srv/../srv/app/",
            "tty": True,
            "stdin_open": True,
            "userns_base": 0x70000000,
            "hostname": "box",
        },
        "user": ResolvedUser(1000, 1001, (1001, 2000), "/home/app"),
    },
    "limits-init-read-only": {
        "record": {
            "init": True,
            "read_only": True,
            "network": "none",
            "resources": Resources(memory_bytes=64 << 20, nano_cpus=1_500_000_000, pids_limit=-1),
            "userns_base": 0x70000000,
        },
        "init_path": "/usr/bin/catatonit",
        "limits": HostLimits(swap=True, hard_limits={"nofile": 20_000}),
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []},
    },
    "mounts": {
        "record": {"userns_base": 0x70000000},
        "mounts": [
            HostMount(MountKind.BIND, "/data/deep/er", "/srv/x", read_only=True),
            HostMount(MountKind.VOLUME, "/data", "/v/data", propagation="rslave"),
            HostMount(MountKind.TMPFS, "/run", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o700),
            HostMount(MountKind.TMPFS, "/tmp", read_only=True),
            HostMount(MountKind.BIND, "/etc/hosts", "/my/hosts"),
            HostMount(MountKind.TMPFS, "/dev/shm"),
        ],
    },
    "privileged": {
        "record": {"privileged": True, "cgroupns_mode": "host", "uts_mode": "host"},
        "equipment": Equipment(nodes=(KVM,)),
        "capabilities": ("CAP_CHOWN", "CAP_SYS_ADMIN"),
    },
    "rights": {
        "record": {
            "userns_base": 0x70000000,
            "cap_add": ("NET_ADMIN", "cap_sys_time"),
            "cap_drop": ("NET_RAW", "mknod"),
            "security_options": ("no-new-privileges:false", "apparmor=tight", "systempaths=unconfined"),
            "ulimits": (Ulimit("core", 0, 0), Ulimit("memlock", -1, -1), Ulimit("nofile", 10, 99_999)),
            "sysctls": {"net/core/somaxconn": "99", "kernel.shmmax": "5", "net.ipv4.ping_group_range": "7 8"},
            "annotations": {"com.example": "x"},
            "oom_score_adj": -5,
            "domainname": "example.org",
            "shm_size_bytes": 1 << 20,
        },
        "limits": HostLimits(hard_limits={"nofile": 5000}, oom_score_floor=0),
    },
    "devices": {
        "record": {"userns_base": 0x70000000, "device_cgroup_rules": ("c 42:* rw", "b *:7 m")},
        "equipment": Equipment(
            nodes=(KVM,), env=("GPU=1",), mounts=(("/opt/lib.so", "/usr/lib/lib.so", "", ("ro", "bind")),), groups=(44,)
        ),
        "device_sources": ("/run/shoal/x/mounts/devices/0000",),
    },
    "hooks": {
        "record": {"userns_base": 0x70000000, "env": ["GPU=mine", "A=b"]},
        "equipment": Equipment(
            env=("GPU=1",),
            hooks={
                "createContainer": (
                    Hook("/usr/bin/nvidia-cdi-hook", ("nvidia-cdi-hook", "update-ldcache"), ("PATH=/bin",), 5),
                    Hook("/usr/bin/other"),
                ),
                "poststop": (Hook("/usr/bin/after", timeout=600),),
            },
        ),
    },
    "devices-without-userns": {
        "record": {"userns": "host", "domainname": "example.org"},
        "equipment": Equipment(nodes=(KVM,)),
    },
    "joined": {
        "record": {
            "userns_base": 0x70000000,
            "network": "container:" + "b" * 64,
            "pid_mode": "container:" + "c" * 64,
            "ipc_mode": "container:" + "c" * 64,
        },
        "joined": {
            "network": Joined("b" * 64, 11),
            "pid": Joined("c" * 64, 12),
            "ipc": Joined("c" * 64, 12, "/run/shoal/c/mounts/shm"),
        },
    },
    "host-namespaces": {
        "record": {
            "userns": "host",
            "pid_mode": "host",
            "ipc_mode": "host",
            "uts_mode": "host",
            "cgroupns_mode": "host",
        },
    },
    "host-ipc-userns": {"record": {"userns_base": 0x70000000, "ipc_mode": "host"}},
    "shareable": {
        "record": {"userns_base": 0x70000000, "ipc_mode": "shareable"},
        "shm_source": "/run/shoal/a/mounts/shm",
    },
    "all-limits-v1": {"record": {"resources": EVERY_LIMIT}, "limits": V1, "equipment": Equipment(numbers=SDA)},
    "all-limits-v2": {"record": {"resources": EVERY_LIMIT}, "limits": V2, "equipment": Equipment(numbers=SDA)},
}


def _config(case: dict[str, Any]) -> dict[str, Any]:
    given = {"user": ROOT, "files": FILES, **{key: value for key, value in case.items() if key != "record"}}
    container = container_record(**case["record"])
    return runtime_config(
        SpecInput(container=container, rootfs="/run/shoal/x/rootfs", cgroup_path=f"/shoal/{container.id}", **given)
    )


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    text = json.dumps(_config(CASES[name]), indent=1) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert json.loads(text) == json.loads(path.read_text())


ORDINARY = [
    *("default", "host-everything", "host-network-userns", "user-and-terminal", "limits-init-read-only", "mounts"),
    *("all-limits-v1", "all-limits-v2", "shareable"),
]


@pytest.mark.parametrize("name", ORDINARY)
def test_what_never_changes_unless_told(name: str) -> None:
    config = _config(CASES[name])
    assert config["process"]["noNewPrivileges"] is True
    assert "oomScoreAdj" not in config["process"]
    assert {"pid", "mount", "ipc", "uts", "cgroup"} <= {one["type"] for one in config["linux"]["namespaces"]}
    assert all("path" not in one for one in config["linux"]["namespaces"])
    assert config["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert "/proc/kcore" in config["linux"]["maskedPaths"]
    assert "/proc/sys" in config["linux"]["readonlyPaths"]


@pytest.mark.parametrize("name", CASES)
def test_what_never_changes(name: str) -> None:
    config = _config(CASES[name])
    assert config["process"]["capabilities"]["ambient"] == config["process"]["capabilities"]["inheritable"] == []
    assert {"type": "mount"} in config["linux"]["namespaces"]
    assert ("hooks" in config) == (name == "hooks")


def test_what_cgroup_v2_lacks_is_told() -> None:
    assert unenforced(EVERY_LIMIT, V1) == []
    told = " ".join(unenforced(EVERY_LIMIT, V2))
    assert "swappiness" in told
    assert "OOM killer" in told
    assert len(unenforced(EVERY_LIMIT, HostLimits(controllers=frozenset()))) == 8


@pytest.mark.parametrize(
    "path",
    ["x", "", "/proc/self/fd/7", "/proc/1/cwd", "//proc/self/fd/7", "/a/../proc/self/fd/7/", "/dev/fd/9", "/dev/fd",
     "/dev/stdin", "/a\0b"],
)  # fmt: skip
def test_bad_working_directories(path: str) -> None:
    if path == "":
        assert working_dir(path) == "/"
        return
    with pytest.raises(InvalidArgument) as caught:
        working_dir(path)
    assert caught.value.reason == "INVALID_WORKDIR"


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"),
        ("//a//b/", "/a/b"),
        ("/proc", "/proc"),
        ("/dev/shm", "/dev/shm"),
        ("/process/x", "/process/x"),
        ("/a/./../..", "/"),
    ],
)
def test_good_working_directories(path: str, clean: str) -> None:
    assert working_dir(path) == clean
    assert not leads_to_descriptors(clean)


@pytest.mark.parametrize("target", ["", "x", "/", "//", "/a/..", "/proc", "/proc/sys", "/x/../proc", "/a\0"])
def test_bad_mount_targets(target: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mount_target(target)
    assert caught.value.reason == "INVALID_MOUNT"


def test_mounts_are_checked() -> None:
    for bad in (
        HostMount(MountKind.BIND, "/x", "relative"),
        HostMount(MountKind.BIND, "/x", "/y", propagation="rshared"),
        HostMount(MountKind.VOLUME, "/x", ""),
    ):
        with pytest.raises(InvalidArgument):
            user_mount(bad)
    twice = [user_mount(HostMount(MountKind.TMPFS, target)) for target in ("/a", "/a/")]
    with pytest.raises(InvalidArgument, match="two mounts at /a"):
        merge([], twice)


def test_read_only_on_an_older_kernel() -> None:
    case = {**CASES["mounts"], "recursive_read_only": False}
    options = {mount["destination"]: mount["options"] for mount in _config(case)["mounts"]}
    assert options["/data/deep/er"] == ["rbind", "rprivate", "ro"]


def test_no_command_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        _config({"record": {"args": []}})
    assert caught.value.reason == "NO_COMMAND"


def test_limits_follow_the_host() -> None:
    asked = Resources(memory_bytes=1 << 30, nano_cpus=1, pids_limit=5)
    bare = HostLimits(controllers=frozenset())
    assert resources(asked, bare).keys() == {"devices"}
    assert [warning.split()[4] for warning in unenforced(asked, bare)] == ["memory", "cpu", "pids"]
    assert unenforced(Resources(), bare) == unenforced(asked, HostLimits()) == []
    assert resources(asked, HostLimits())["cpu"]["quota"] == 1000
    assert resources(Resources(), HostLimits())["pids"]["limit"] == 4096
    assert "swap" not in resources(asked, HostLimits())["memory"]
    assert rlimits((), {"nofile": 512}) == [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]
    assert rlimits((), None)[0]["hard"] == 524_288


def test_environment_keeps_what_was_given() -> None:
    container = container_record(env=["TERM=vt100", "HOSTNAME=mine", "PATH="], tty=True)
    assert environment(container, ROOT) == ["TERM=vt100", "HOSTNAME=mine", "PATH=", "HOME=/root"]
