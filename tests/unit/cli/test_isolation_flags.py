"""The flags of isolation and limits: docker's notation, what is sent, and what is refused before any host is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoalctl.commands.isolation_flags import FLAGS
from shoalctl.commands.out_flags import OUT
from shoalctl.flags import isolation
from shoalctl.flags.fault import UsageFault
from tests.support.cli import Shoal, golden
from tests.support.fake_daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("config")


def test_run_sends_all_of_it(shoal: Shoal, h1: FakeDaemon, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}, indent=4))
    (tmp_path / "labels").write_text("# of the file\n\nfrom=file\nboth=file\n")
    code, _, error = shoal(
        "run", "-d", "--cap-add", "NET_ADMIN", "--cap-add=SYS_TIME", "--cap-drop", "ALL", "--privileged",
        "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}",
        "--security-opt", "label:disable", "--group-add", "audio",
        "--pid", "host", "--ipc", "container:a", "--uts", "host", "--cgroupns", "host",
        "--domainname", "d.example", "--add-host", "a:1.2.3.4", "--dns", "1.1.1.1", "--dns-search", "x.example",
        "--dns-opt", "ndots:2", "--dns-option", "use-vc", "--mac-address", "02:00:00:00:00:01", "--ip", "10.0.0.9",
        "--ip6", "fd00::9", "--network-alias", "web", "--net-alias", "www", "--ulimit", "nofile=10:20", "--ulimit",
        "core=-1", "--sysctl", "net.core.somaxconn=9", "--device", "/dev/fuse", "--device", "/dev/a:/dev/b:r",
        "--device", "/dev/c:rw", "--device", "vendor.com/class=one", "--device-cgroup-rule", "c 1:* rwm", "--gpus",
        "device=0,1", "--device-read-bps", "/dev/sda:1mb", "--device-write-bps", "/dev/sda:2m", "--device-read-iops",
        "/dev/sda:10", "--device-write-iops", "/dev/sda:20", "--shm-size", "1g", "--memory-swap", "-1",
        "--memory-reservation", "100m", "--memory-swappiness", "0", "--oom-kill-disable", "--oom-score-adj", "-5",
        "-c", "512", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0-1", "--cpuset-mems", "0",
        "--blkio-weight", "300", "--annotation", "k=v=w", "--label-file", str(tmp_path / "labels"), "-l", "both=flag",
        "--health-cmd", "true || exit 1", "--health-interval", "1m30s", "--health-timeout", "2s", "--health-retries",
        "4", "--health-start-period", "5s", "--health-start-interval", "500ms", "--expose", "80-81/tcp", "-P",
        "busybox",
    )  # fmt: skip
    assert code == 0, error
    spec = h1.requests("Run")[0].spec
    assert dict(spec.labels) == {"from": "file", "both": "flag"}
    spec.labels.clear()  # a map has no order
    golden("run-isolation-request.txt", str(spec))


def test_no_flag_changes_nothing(shoal: Shoal, h1: FakeDaemon) -> None:
    assert shoal("run", "-d", "busybox")[0] == 0
    spec = h1.requests("Run")[0].spec
    assert not spec.HasField("health_check")
    assert not spec.security_options
    assert not spec.resources.HasField("memory_swappiness")


def test_the_images_health_check_is_switched_off(shoal: Shoal, h1: FakeDaemon) -> None:
    shoal("run", "-d", "--no-healthcheck", "busybox")
    assert list(h1.requests("Run")[0].spec.health_check.test) == ["NONE"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ulimit", "nofile"], ["--ulimit", "nofile=a"], ["--sysctl", "x"], ["--sysctl", "=1"], ["--annotation", "x"],
        ["--device", "fuse"], ["--device", "/dev/a:/dev/b:rwx"], ["--device", "/dev/a:b:c:d"], ["--gpus", "some"],
        ["--device-read-bps", "/dev/sda"], ["--device-read-iops", "/dev/sda:1m"], ["--device-read-bps", "/dev/sda:0"],
        ["--shm-size", "lots"], ["--memory-swap", "-2"], ["--memory-swappiness", "101"], ["--oom-score-adj", "1001"],
        ["--blkio-weight", "-1"], ["--cpu-shares", "-1"], ["--health-retries", "-1"], ["--health-interval", "soon"],
        ["--no-healthcheck", "--health-cmd", "true"], ["--security-opt", "seccomp=/nowhere"],
        ["--label-file", "/nowhere"],
        ["--oom-score-adj", str(2**70)], ["--cpu-quota", str(2**70)],
    ],
)  # fmt: skip
def test_bad_values_ask_no_host(shoal: Shoal, h1: FakeDaemon, arguments: list[str]) -> None:
    code, out, error = shoal("run", "-d", *arguments, "busybox")
    assert (code, out) == (2, ""), error
    assert error
    assert not h1.requests("Run")


@pytest.mark.parametrize("flag", OUT)
def test_what_is_out_says_why(shoal: Shoal, h1: FakeDaemon, flag: str) -> None:
    value = [] if flag in ("--use-api-socket", "--disable-content-trust") else ["x"]
    code, _, error = shoal("run", "-d", flag, *value, "busybox")
    assert code == 2
    assert f"{flag} is not supported: {OUT[flag]}" in error
    assert not h1.requests("Run")


def test_no_flag_is_both_in_and_out() -> None:
    spelled = [word for flag in FLAGS for word in flag.spelling.split()]
    assert len(spelled) == len(set(spelled))
    assert not set(spelled) & set(OUT)


def test_seccomp_files(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{ "defaultAction":\n "SCMP_ACT_LOG" }')
    assert isolation.security_option(f"seccomp={file}") == 'seccomp={"defaultAction":"SCMP_ACT_LOG"}'
    assert isolation.security_option(f"seccomp:{file}") == 'seccomp={"defaultAction":"SCMP_ACT_LOG"}'
    for kept in ("seccomp=unconfined", "seccomp=builtin", "apparmor=x", "no-new-privileges:false"):
        assert isolation.security_option(kept) == kept
    file.write_text("not json")
    with pytest.raises(UsageFault, match="JSON"):
        isolation.security_option(f"seccomp={file}")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageFault, match="UTF-8"):
        isolation.security_option(f"seccomp={file}")
    file.write_text(json.dumps({"x": "y" * isolation.MAX_PROFILE}))
    with pytest.raises(UsageFault, match="bytes"):
        isolation.security_option(f"seccomp={file}")


def test_gpus() -> None:
    assert isolation.parse_gpus("all") == ["nvidia.com/gpu=all"]
    assert isolation.parse_gpus("2") == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert isolation.parse_gpus('"device=GPU-1a,2"') == ["nvidia.com/gpu=GPU-1a", "nvidia.com/gpu=2"]
