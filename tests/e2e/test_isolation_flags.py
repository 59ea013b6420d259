"""The flags of isolation and limits by the command: typed as for docker, measured in the container and on the host."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.pki import Role
from shoald.host import rights
from tests.support.daemon import Fleet


@pytest.fixture(autouse=True)
def _clean(host: Fleet) -> Iterator[None]:
    yield
    host.remove_containers()


def sh(host: Fleet, image: str, script: str, *options: str) -> list[str]:
    """Lines that a script prints."""
    return host.shoal("run", "-q", "--rm", *options, image, "sh", "-c", script).stdout.splitlines()


def test_what_the_container_sees(host: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("team=db\n")
    out = sh(
        host, busybox,
        "grep CapEff /proc/self/status; ulimit -Sn; cat /proc/sys/net/core/somaxconn; df -k /dev/shm | tail -1;"
        "grep -c 'a.example$' /etc/hosts; grep nameserver /etc/resolv.conf; nproc; cat /proc/self/oom_score_adj; id -G",
        *("--cap-drop", "all", "--cap-add", "net_bind_service", "--ulimit", "nofile=55:66", "--shm-size", "3m"),
        *("--sysctl", "net.core.somaxconn=7", "--add-host", "a.example:10.1.1.1", "--dns", "10.3.3.3"),
        *("--cpuset-cpus", "0", "--oom-score-adj", "9", "--group-add", "77", "--label-file", str(tmp_path / "labels")),
    )  # fmt: skip
    assert out[0].split()[1] == f"{1 << 10:016x}"
    assert out[1:3] == ["55", "7"]
    assert out[3].split()[1] == "3072"
    assert out[4:] == ["1", "nameserver 10.3.3.3", "1", "9", "0 77"]


def test_lack_of_memory_and_of_processor_time(host: Fleet, busybox: str) -> None:
    done = host.shoal("run", "--rm", "-m", "16m", "--memory-swap", "16m", busybox, "tail", "/dev/zero", code=None)
    assert done.returncode == 137
    burn = "end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done"
    look = "for f in cpu/cpu.stat cpu.stat; do [ -f /sys/fs/cgroup/$f ] && cat /sys/fs/cgroup/$f; done; true"
    lines = sh(host, busybox, f"{burn}; {look}", "--cpu-period", "20000", "--cpu-quota", "2000")
    figures = dict(line.split()[:2] for line in lines)
    assert int(figures["nr_throttled"]) > 5


def test_a_seccomp_profile_of_the_laptop(host: Fleet, busybox: str, tmp_path: Path) -> None:
    rule = {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}
    (tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    option = f"seccomp={tmp_path / 'profile.json'}"
    done = host.shoal("run", "--rm", "--security-opt", option, busybox, "chmod", "0", "/etc", code=1)
    assert "not permitted" in done.stderr


def test_warnings_are_shown(host: Fleet, busybox: str) -> None:
    if rights.may(rights.SYS_RESOURCE):
        pytest.skip("this host lets the daemon raise limits")
    done = host.shoal("run", "--rm", "--ulimit", f"nofile=100:{2**30}", busybox, "sh", "-c", "ulimit -Hn")
    assert int(done.stdout) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert "ulimit nofile" in done.stderr


def test_joining_and_who_it_joins(host: Fleet, busybox: str) -> None:
    made = host.shoal("run", "-d", "--ipc", "shareable", busybox, "sh", "-c", "echo x > /dev/shm/y; exec sleep 1000")
    name = made.stdout.strip()
    joined = [f"--{kind}=container:{name}" for kind in ("ipc", "pid", "network")]
    out = sh(host, busybox, "cat /dev/shm/y; cat /proc/1/cmdline | tr '\\0' ' '; echo; hostname", *joined)
    assert out == ["x", "sleep 1000 ", name[:12]]
    done = host.shoal("run", "--rm", "--network", "container:nobody", busybox, "true", code=None)
    assert done.returncode == 125
    assert "nobody" in done.stderr


def test_published_with_capital_p(host: Fleet, busybox: str) -> None:
    host.shoal("run", "-d", "--name", "web", "-P", "--expose", "80", busybox, "httpd", "-f", "-p", "80", "-h", "/etc")
    assert re.search(r"127\.[0-9.]+:[1-9][0-9]*->80/tcp", host.shoal("ps").stdout)


def test_privileges_need_an_admin(host: Fleet, busybox: str) -> None:
    certificate, key = host.user("operator", Role.OPERATOR)
    host.add_host("as-operator", host.first.address, cert=str(certificate), key=str(key))
    for options in (["--privileged"], ["--pid", "host"], ["--device", "/dev/fuse"], ["--cap-add", "SYS_ADMIN"]):
        done = host.shoal("run", "-H", "as-operator", "--rm", *options, busybox, "true", code=None)
        assert done.returncode == 125
        assert "role admin" in done.stderr
    allowed = host.shoal("run", "-q", "-H", "as-operator", "--rm", "--cap-drop", "ALL", busybox, "echo", "fine")
    assert allowed.stdout == "fine\n"
    host.shoal("run", "-d", "--name", "big", "--privileged", busybox, "sleep", "1000")
    done = host.shoal("run", "-H", "as-operator", "--rm", "--pid", "container:big", busybox, "true", code=None)
    assert done.returncode == 125
    assert "role admin" in done.stderr


def test_bad_values_make_nothing(host: Fleet, busybox: str) -> None:
    for options in (
        ["--cap-add", "NOPE"], ["--sysctl", "kernel.panic=1"], ["--device", "/dev/nothing"], ["--cpuset-cpus", "500"],
        ["--cpus", "500"], ["--pid", "container:none"], ["--security-opt", "apparmor=no-such-profile"],
        ["--ulimit", "files=1"], ["--dns", "x"], ["--gpus", "all"], ["--device-read-bps", "/dev/null:1m"],
    ):  # fmt: skip
        done = host.shoal("run", "-d", *options, busybox, "true", code=None)
        assert done.returncode == 125, (options, done.stderr)
        assert "Traceback" not in done.stderr
        assert "internal" not in done.stderr
    assert not host.json("ps", "-a")
