"""Rows 15 and 16: control sockets out of reach (CVE-2020-15257), and the network (moby#22054, CVE-2020-8558)."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.security.lab import Lab, refusal
from tests.support.daemon import until

SERVE = "mkdir -p /www && echo hello > /www/index.html && exec httpd -f -p 80 -h /www"


@contextlib.contextmanager
def _running(lab: Lab, image: str, *options: str, script: str = SERVE) -> Iterator[str]:
    name = lab.fleet.shoal("run", "-q", "-d", *options, image, "sh", "-c", script).stdout.strip()
    try:
        yield name
    finally:
        lab.fleet.shoal("rm", "-f", name)


def _abstract() -> set[str]:
    """Abstract sockets of this network namespace, by name."""
    return {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.split()[-1][0] == "@"}


def _as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python as uid and gid 65534 of the host."""
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-I", "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd="/")


CONNECT = "import socket,sys\ns=socket.socket(socket.AF_UNIX, socket.{kind})\ns.connect({path!r})\nprint('connected')"


# --- row 15 -----------------------------------------------------------------------------------------------------------


def test_no_abstract_socket_is_ours(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    before = _abstract()
    with _running(lab, busybox, "-i", "--network", "host", *userns, script="sleep 60"):
        seen = lab.sh(busybox, "cat /proc/net/unix", "--network", "host", *userns)
    names = {line.split()[-1] for line in seen.splitlines() if line.split()[-1].startswith("@")}
    new = {name for name in names - before if re.search("shoal|conmon|crun|runc|containerd|attach|grpc", name)}
    assert not new


def test_sockets_are_private(lab: Lab, busybox: str) -> None:
    """Each is 0600 in a directory that nobody else enters, or has one on its way that nobody else enters."""
    run_dir = lab.fleet.first.run_dir
    with _running(lab, busybox, "-i", "-t", script="sleep 60"):
        special = [path for path in run_dir.rglob("*") if not path.is_symlink() and _special(path)]
        assert any(path.name == "attach" for path in special)
        assert any(path.name == "shoald.sock" for path in special)
        for path in special:
            if "rootfs" in path.parts:
                continue
            info = path.lstat()
            assert info.st_uid == 0
            others = stat.S_IMODE(info.st_mode) & (0o077 if stat.S_ISSOCK(info.st_mode) else 0o007)
            assert others == 0 or not _enterable(path.parent, run_dir), path
            kind = "SOCK_SEQPACKET" if path.name == "attach" else "SOCK_STREAM"
            if stat.S_ISSOCK(info.st_mode):
                tried = _as_nobody(CONNECT.format(kind=kind, path=str(path)))
                assert "PermissionError" in tried.stderr, (path, tried.stderr)
            else:
                tried = _as_nobody(f"open({str(path)!r}, 'r+b', buffering=0)")
                assert "PermissionError" in tried.stderr, (path, tried.stderr)
        api = run_dir / "api"
        assert (stat.S_IMODE(api.stat().st_mode), api.stat().st_uid) == (0o700, 0)
        assert stat.S_IMODE((api / "shoald.sock").stat().st_mode) == 0o600


def _special(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)


def _enterable(directory: Path, top: Path) -> bool:
    """Whether others may pass from `top` down to `directory`."""
    chain = [directory, *(parent for parent in directory.parents if parent.is_relative_to(top))]
    return all(stat.S_IMODE(each.stat().st_mode) & 0o011 for each in chain)


def test_another_user_reads_no_state(lab: Lab, busybox: str) -> None:
    """Database, blobs, logs, configuration of containers: nothing for others to read."""
    secret = "planted-secret-value"
    with _running(lab, busybox, "-e", f"TOKEN={secret}", script="echo $TOKEN; sleep 60"):
        until(lambda: secret in lab.fleet.shoal("logs", "-H", "h1", *_ids(lab)).stdout)
        walk = (
            "import os,sys\n"
            f"for top in ({str(lab.fleet.first.root)!r}, {str(lab.fleet.first.run_dir)!r}):\n"
            "  for at, names, files in os.walk(top):\n"
            "    for name in files:\n"
            "      try: data = open(os.path.join(at, name), 'rb').read()\n"
            "      except OSError: continue\n"
            f"      if {secret!r}.encode() in data: print(os.path.join(at, name))\n"
        )
        assert _as_nobody(walk).stdout == ""


def _ids(lab: Lab) -> list[str]:
    return lab.fleet.shoal("ps", "-aq").stdout.split()


def test_nothing_of_the_daemon_is_reachable_from_a_container(lab: Lab, userns: tuple[str, ...], busybox: str) -> None:
    host, port = lab.fleet.first.address.split(":")
    script = f"""
    ls {lab.fleet.first.run_dir} {lab.fleet.first.root} && echo SEEN
    gateway=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')
    for a in {host} $gateway; do nc -w 2 $a {port} < /dev/null && echo REACHED; done
    true
    """
    output = lab.sh(busybox, script, *userns)
    assert "SEEN" not in output
    assert "REACHED" not in output


# --- row 16 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lan() -> Iterator[tuple[str, str]]:
    """A neighbour in the host's network: (its network namespace, an address of the host that it can reach)."""
    name, link = f"sec-{os.getpid()}", f"sec{os.getpid() % 10_000_000}"
    subnet = f"10.89.{40 + os.getpid() % 8}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {link} type veth peer name lan0 netns {name}",
        f"ip addr add {subnet}.1/24 dev {link}",
        f"ip link set {link} up",
        f"ip -n {name} addr add {subnet}.2/24 dev lan0",
        f"ip -n {name} link set lan0 up",
        f"ip -n {name} link set lo up",
        f"ip -n {name} route add default via {subnet}.1",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield name, f"{subnet}.1"
    finally:
        subprocess.run(["ip", "link", "del", link], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)


def _fetch(address: str, port: int, netns: str = "") -> str:
    """The page at an address: "" when it can't be had. From the host, or from a network namespace."""
    code = f"import urllib.request as u;print(u.build_opener(u.ProxyHandler({{}})).open('http://{address}:{port}/',timeout=2).read().decode())"
    inside = ["ip", "netns", "exec", netns] if netns else []
    done = subprocess.run([*inside, sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=20)
    return done.stdout.strip()


def _port(lab: Lab, name: str) -> tuple[str, int]:
    """Where the container's port is published."""
    (shown,) = (one["Ports"] for one in lab.fleet.json("ps") if name.startswith(one["ID"]))
    address, _, rest = shown.partition(":")
    return address, int(rest.partition("->")[0])


def test_ports_are_published_on_loopback_unless_asked(host: Lab, lan: tuple[str, str], busybox: str) -> None:
    netns, address = lan
    with _running(host, busybox, "-p", "0:80") as name:
        ip, port = _port(host, name)
        assert ip == host.fleet.first.publish_address
        until(lambda: _fetch(ip, port) == "hello", what="the port answers on loopback")
        for target in (address, ip):
            assert _fetch(target, port, netns) == "", "reachable from the network"
        assert _fetch(address, port) == "", "reachable on another address of the host"
    with _running(host, busybox, "-p", f"{address}:0:80") as name:
        _, port = _port(host, name)
        until(lambda: _fetch(address, port, netns) == "hello", what="asked for, it is reachable")


def test_containers_are_not_reachable_past_their_ports(host: Lab, lan: tuple[str, str], busybox: str) -> None:
    """A neighbour that routes the bridge's network over this host reaches nothing that is not published."""
    netns, _ = lan
    with _running(host, busybox, "-p", "0:80") as name:
        ip, port = _port(host, name)
        until(lambda: _fetch(ip, port) == "hello")
        address = host.fleet.json("inspect", name)[0]["NetworkSettings"]["IPAddress"]
        assert _fetch(address, 80) == "hello", "from the host itself"
        assert _fetch(address, 80, netns) == ""


def test_rules_come_back_when_others_flush_them(host: Lab, lan: tuple[str, str], busybox: str) -> None:
    """`nft flush table`, `delete table`: what `nft flush ruleset` does to ours, without hurting other tables."""
    netns, address = lan
    table = host.fleet.first.settings["network"]["nft_table"]
    with _running(host, busybox, "-p", "0:80") as name:
        ip, port = _port(host, name)
        until(lambda: _fetch(ip, port) == "hello")
        for command in ("flush", "delete"):
            subprocess.run(["nft", command, "table", "ip", table], check=True)
            until(lambda: _fetch(ip, port) == "hello", what=f"the port answers again after {command}")
            assert _fetch(address, port, netns) == ""


def test_loopback_of_the_host_is_out_of_reach(host: Lab, busybox: str) -> None:
    """Services on 127.0.0.1, by routes that a container makes for itself, its gateway's address, and source tricks."""
    reached: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port, stop = server.getsockname()[1], threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, peer = server.accept()
                    reached.append(str(peer))
                    connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            script = f"""
            gateway=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')
            for a in 127.0.0.1 127.0.0.53 $gateway 0.0.0.0 host.docker.internal; do nc -w 1 $a {port} < /dev/null; done
            ip link set lo down; ip route add 127.0.0.0/8 via $gateway; nc -w 1 127.0.0.1 {port} < /dev/null
            true
            """
            host.sh(busybox, script)
        finally:
            stop.set()
            thread.join()
    assert reached == []


def test_a_container_does_not_pass_for_another(host: Lab, lan: tuple[str, str], busybox: str) -> None:
    """It has no CAP_NET_ADMIN: no second address, no promiscuous interface, no forwarding."""
    script = """
    ip addr add 10.99.99.9/24 dev eth0 && echo CHANGED
    ip link set eth0 promisc on && echo CHANGED
    ip link set eth0 address 02:00:00:00:00:01 && echo CHANGED
    ip neigh add 10.99.99.1 lladdr 02:00:00:00:00:01 dev eth0 && echo CHANGED
    echo 1 > /proc/sys/net/ipv4/ip_forward && echo CHANGED
    true
    """
    assert "CHANGED" not in host.sh(busybox, script)


def test_a_name_that_is_taken_and_a_port_in_use_are_refused(host: Lab, busybox: str) -> None:
    with socket.create_server((host.fleet.first.publish_address, 0)) as server:
        port = server.getsockname()[1]
        assert str(port) in refusal(host.run(busybox, "true", options=("-p", f"{port}:80")))
