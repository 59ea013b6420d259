"""What every container has by default, looked at from inside: capabilities, seccomp, ids, devices."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from shoald.runtime.capabilities import DEFAULT_CAPABILITIES
from tests.e2e.security.building import Builder
from tests.e2e.security.lab import Lab, compiled
from tests.support.layers import Device, File

DOCKER = 0xA80425FB
"""The bits of Docker's fourteen capabilities."""


def _status(output: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)


def _hardened(status: dict[str, str], *, root: bool = True) -> None:
    held = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert held["CapBnd"] & ~DOCKER == 0
    assert held["CapEff"] == held["CapPrm"] == (DOCKER if root else 0)
    assert held["CapInh"] == held["CapAmb"] == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_default_set_is_dockers() -> None:
    assert len(DEFAULT_CAPABILITIES) == DOCKER.bit_count() == 14


@pytest.mark.parametrize("options", [(), ("--network", "host"), ("-t", "-d"), ("--init",), ("--read-only",)])
def test_status_of_a_process(lab: Lab, userns: tuple[str, ...], options: tuple[str, ...], busybox: str) -> None:
    if "-d" in options:
        name = lab.fleet.shoal("run", "-q", *options, *userns, busybox, "cat", "/proc/self/status").stdout.strip()
        lab.fleet.shoal("wait", name)
        output = lab.fleet.shoal("logs", name).stdout.replace("\r", "")
        lab.fleet.shoal("rm", "-f", name)
    else:
        output = lab.sh(busybox, "cat /proc/self/status", *options, *userns)
    _hardened(_status(output))


def test_status_of_a_user(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    _hardened(_status(lab.sh(busybox, "cat /proc/self/status", "-u", "1000", *userns)), root=False)


def test_status_in_a_build(builder: Builder, busybox: str) -> None:
    _hardened(_status(builder.step(busybox, "cat /proc/self/status")))


def test_ids_are_not_the_hosts(lab: Lab, busybox: str) -> None:
    bases = set()
    for _ in range(2):
        inside, base, size = lab.sh(busybox, "cat /proc/self/uid_map").split()
        assert (inside, size) == ("0", "65536")
        assert int(base) >= 65536
        bases.add(base)
    assert lab.sh(busybox, "cat /proc/self/uid_map", "--userns", "host").split()[1] == "0"


def test_two_containers_share_no_ids(host: Lab, busybox: str) -> None:
    names = [host.fleet.shoal("run", "-q", "-d", busybox, "sleep", "60").stdout.strip() for _ in range(2)]
    try:
        bases = {line.split()[1] for line in _maps(host)}
        assert len(bases) == 2
    finally:
        host.fleet.shoal("rm", "-f", *names)


def _maps(lab: Lab) -> list[str]:
    """uid_map of the first process of each container that runs."""
    found = []
    for bundle in lab.bundles():
        pid = (lab.fleet.first.run_dir / bundle / "pidfile").read_text()
        found.append(Path(f"/proc/{pid}/uid_map").read_text())
    return found


def test_namespaces_are_its_own(lab: Lab, busybox: str) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    inside = lab.sh(busybox, "cd /proc/self/ns; for n in " + " ".join(kinds) + "; do readlink $n; done").split()
    assert not set(inside) & {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds}


def test_calls_that_are_blocked(lab: Lab, userns: tuple[str, ...], tmp_path: Path) -> None:
    program = compiled("syscalls.c", tmp_path / "syscalls", "-static", "-Wno-unused-result", "-no-pie")
    image = lab.image({"syscalls": File(program, 0o755)})
    for user in ("0", "1000"):
        output = lab.run(image, "/syscalls", options=("-u", user, *userns), code=0).stdout
        results = dict(line.split(" ") for line in output.splitlines())
        assert len(results) >= 46
        plain = {name: results.pop(name) for name in list(results) if name.startswith("plain_")}
        assert plain.pop("plain_chroot") == ("ok" if user == "0" else str(errno.EPERM))
        assert set(plain.values()) == {"ok"}, plain
        let_through = {n: r for n, r in results.items() if r not in (str(errno.EPERM), str(errno.ENOSYS))}
        assert not let_through


def test_no_way_up_by_set_user_id(lab: Lab, userns: tuple[str, ...], tmp_path: Path) -> None:
    program = compiled("setuid.c", tmp_path / "setuid", "-static")
    image = lab.image({"setuid": File(program, 0o6755), "caps": File(program, 0o755)})
    assert lab.run(image, "/setuid", options=("-u", "1000", *userns)).stdout == "1000 1000 -1\n"


def test_devices(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    usual = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"}
    usual |= {"tty", "urandom", "zero", "console"}
    assert set(lab.sh(busybox, "ls /dev", *userns).split()) <= usual
    image = lab.image({"disk": Device("b", 254, 0), "mem": Device("c", 1, 1), "kmsg": Device("c", 1, 11)})
    nodes = {"/tmp/b": "b 254 0", "/tmp/c": "c 1 1", "/tmp/f": "c 10 229", "/tmp/k": "c 1 11"}
    script = "".join(f"mknod {path} {what}; " for path, what in nodes.items())
    for path in ("/disk", "/mem", "/kmsg", *nodes):
        script += f"dd if={path} of=/tmp/x bs=1 count=1 && echo OPENED {path}; (: < {path}) && echo OPENED {path}; "
        script += f"(: >> {path}) && [ -c {path} -o -b {path} ] && echo OPENED {path}; "
    assert "OPENED" not in lab.run(image, "sh", "-c", script, options=userns).stdout


def test_modes_of_the_hosts_devices_stay(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    """The fixture looks at the host's own afterwards."""
    devices = "/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /proc/kcore /proc/keys"
    lab.run(busybox, "sh", "-c", f"chmod 600 {devices}; chown 1000 {devices}; rm -f {devices}", options=userns)
    lab.run(busybox, "sh", "-c", f"chmod 600 {devices}", options=("-u", "1000", *userns))
