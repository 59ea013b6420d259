"""Rows 3, 4 and 15 again, for containers with the flags of isolation: none of them opens what it is not about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.security.lab import Lab, refusal
from tests.e2e.security.test_isolation import _abstract, _running
from tests.e2e.security.test_redirected_paths import ATTACKS, CHECK, REFUSED, _confined, _etc, _mounts
from tests.support.layers import Symlink

PROFILE = '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount","umount2"],"action":"SCMP_ACT_ERRNO"}]}'

FLAGS: dict[str, tuple[str, ...]] = {
    "limits": ("--cpu-shares", "100", "--memory-reservation", "64m", "--shm-size", "1m", "--ulimit", "nofile=100:100"),
    "capabilities": ("--cap-drop", "ALL", "--cap-add", "chown", "--cap-add", "mknod", "--cap-add", "dac_override"),
    "net admin": ("--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    "no new privileges off": ("--security-opt", "no-new-privileges:false"),
    "uts": ("--uts", "host"),
    "cgroupns": ("--cgroupns", "host"),
    "ipc": ("--ipc", "host"),
    "shareable": ("--ipc", "shareable"),
    "device": ("--device", "/dev/loop-control", "--device", "/dev/null:/dev/also-null"),
    "names": ("--domainname", "d.example", "--dns", "1.1.1.1", "--add-host", "a:1.2.3.4", "--group-add", "5"),
    "sysctl": ("--sysctl", "net.core.somaxconn=5", "--sysctl", "kernel.shmmax=5"),
    "annotation": ("--annotation", "com.example=x", "--oom-score-adj", "100"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_masked_and_read_only_paths_stay(lab: Lab, userns: tuple[str, ...], name: str, busybox: str) -> None:
    _confined(lab.sh(busybox, CHECK, *FLAGS[name], *userns))


def test_masked_and_read_only_paths_with_a_profile_of_the_callers(lab: Lab, tmp_path: Path, busybox: str) -> None:
    (tmp_path / "profile.json").write_text(PROFILE)
    _confined(lab.sh(busybox, CHECK, "--security-opt", f"seccomp={tmp_path / 'profile.json'}"))


def test_masked_and_read_only_paths_with_the_hosts_processes(lab: Lab, busybox: str) -> None:
    _confined(lab.sh(busybox, CHECK, "--pid", "host"))


def test_masked_and_read_only_paths_of_who_joins(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    with _running(lab, busybox, "--ipc", "shareable", *userns, script="sleep 600") as other:
        for flag in ("--network", "--pid", "--ipc"):
            _confined(lab.sh(busybox, CHECK, flag, f"container:{other}", *userns))


@pytest.mark.parametrize("name", ["dev-root", "dev-up", "dev-absolute", "dev-proc", "null-up", "shm-up", "etc-up"])
@pytest.mark.parametrize("userns", [(), ("--userns", "host")], ids=["userns", "userns-host"])
def test_links_lead_no_device_to_the_host(
    lab: Lab, name: str, userns: tuple[str, ...], canary: Path, busybox: str
) -> None:
    layer = {**ATTACKS[name](str(canary)), "link": Symlink("../" * 12 + str(canary).lstrip("/"))}
    image, mounts, etc = lab.image(layer), _mounts(), _etc()
    options = [
        *("--device", "/dev/loop-control", "--device", "/dev/loop-control:/link/new", "--tmpfs", "/link/scratch"),
        *("--device", "/dev/loop-control:/link/file", "--ipc", "shareable", "--shm-size", "1m", *userns),
    ]
    done = lab.run(image, "sh", "-c", CHECK, options=options)
    if done.returncode == REFUSED:
        refusal(done)
    else:
        _confined(done.stdout)
    assert _etc() == etc
    assert not {mount for mount in _mounts() - mounts if str(canary) in mount}


@pytest.mark.parametrize(
    "group", ["", " 5", "5 ", "-1", "4294967295", "4294967296", "2147483648", "0x5", "nobody-knows", "5:6", "5,6"]
)
def test_bad_groups_are_refused(host: Lab, group: str, busybox: str) -> None:
    assert group.strip() in refusal(host.run(busybox, "id", options=["--group-add", group]))


def test_good_groups(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    out = lab.sh(busybox, "id -u; id -G", "--group-add", "65000", "--group-add", "7", "-u", "5:6", *userns)
    assert sorted(out.split(), key=int) == ["5", "6", "7", "65000"]


def test_no_abstract_socket_is_ours_in_the_hosts_namespaces(lab: Lab, busybox: str) -> None:
    before = _abstract()
    shared = ("--network", "host", "--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host")
    with _running(lab, busybox, "-i", *shared, "--privileged", script="sleep 60"):
        seen = lab.sh(busybox, "cat /proc/net/unix", *shared, "--privileged")
    names = {line.split()[-1] for line in seen.splitlines() if line.split()[-1].startswith("@")}
    assert not {name for name in names - before if re.search("shoal|conmon|crun|runc|containerd|attach|grpc", name)}


def test_annotations_tell_the_runtime_nothing(host: Lab, canary: Path, busybox: str) -> None:
    keys = ("run.oci.hooks.stdout", "run.oci.seccomp_bpf_data", "run.oci.handler", "org.systemd.property.TasksMax")
    for key in keys:
        assert key in refusal(host.run(busybox, "id", options=["--annotation", f"{key}={canary}/new"]))


def test_leaked_descriptors_of_who_joins(lab: Lab, busybox: str) -> None:
    """Row 2: standard streams alone, also with namespaces of another and devices."""
    with _running(lab, busybox, "--ipc", "shareable", script="sleep 600") as other:
        joined = [f"--{kind}=container:{other}" for kind in ("network", "pid", "ipc")]
        out = lab.sh(busybox, "ls /proc/self/fd", *joined, "--device", "/dev/loop-control")
    assert set(out.split()) <= {"0", "1", "2", "3"}  # 3: the directory that ls reads
