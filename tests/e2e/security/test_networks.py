"""Row 16 for networks of users: apart, shut where they are internal, and back when others flush (CVE-2024-29018)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoald.network.dns import find_program
from tests.e2e.security.lab import Lab
from tests.e2e.security.test_isolation import SERVE, _running
from tests.e2e.security.test_isolation import lan as lan_of_the_host
from tests.support.daemon import until

pytestmark = pytest.mark.skipif(not find_program(""), reason="needs aardvark-dns")


lan = lan_of_the_host


@pytest.fixture
def nets(host: Lab) -> Iterator[tuple[str, str]]:
    """Two networks, an open and an internal one."""
    token = secrets.token_hex(3)
    names = (f"open-{token}", f"shut-{token}")
    host.fleet.shoal("network", "create", names[0])
    host.fleet.shoal("network", "create", "--internal", names[1])
    yield names
    host.fleet.shoal("network", "rm", *names)


@contextlib.contextmanager
def _resolver() -> Iterator[tuple[str, list[bytes]]]:
    """A name server of the host on a loopback address of its own: (address, what it was asked)."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        address = f"127.{secrets.randbelow(100) + 130}.{secrets.randbelow(200) + 1}.9"
        server.bind((address, 53))
        server.settimeout(0.2)
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    query, peer = server.recvfrom(4096)
                    asked.append(query)
                    # NXDOMAIN, which is an answer.
                    server.sendto(query[:2] + b"\x81\x83" + query[4:6] + b"\0" * 6 + query[12:], peer)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield address, asked
        finally:
            stop.set()
            thread.join()


def _ip(host: Lab, container: str, network: str) -> str:
    (view,) = json.loads(host.fleet.shoal("inspect", container).stdout)
    return str(view["NetworkSettings"]["Networks"][network]["IPAddress"])


def _gateway(host: Lab, network: str) -> str:
    (view,) = json.loads(host.fleet.shoal("network", "inspect", network).stdout)
    return str(view["IPAM"]["Config"][0]["Gateway"])


def test_an_internal_network_asks_nobody_for_names_of_outside(host: Lab, nets: tuple[str, str], busybox: str) -> None:
    """By the name server of its network, a resolver of its own choice, and straight to that one."""
    with _resolver() as (address, asked):
        for network, reaches in zip(nets, (True, False), strict=True):
            name = f"leak-{secrets.token_hex(8)}.example"
            script = f"nslookup {name}; nslookup {name} {address}; nslookup {name} {_gateway(host, network)}; true"
            host.run(busybox, "sh", "-c", script, options=("--network", network, "--dns", address), code=0)
            needle = name.partition(".")[0].encode()
            # The open network shows that the question would be seen.
            assert any(needle in query for query in asked) == reaches, network


def test_an_internal_network_has_no_way_out(
    host: Lab, nets: tuple[str, str], lan: tuple[str, str], busybox: str
) -> None:
    """Not by a route that a container makes for itself either: to no neighbour of the host, to no other container."""
    netns, address = lan
    neighbour = address.rpartition(".")[0] + ".2"
    command = ["ip", "netns", "exec", netns, sys.executable, "-I", "-m", "http.server", "8099", "--bind", neighbour]
    with (
        _running(host, busybox, script=SERVE) as other,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") as server,
    ):
        try:
            (view,) = json.loads(host.fleet.shoal("inspect", other).stdout)
            targets = ((neighbour, 8099), (view["NetworkSettings"]["IPAddress"], 80))
            for network, reaches in zip(nets, ((True, False), (False, False)), strict=True):
                way = f"ip route replace default via {_gateway(host, network)}; ip route"
                with _running(
                    host, busybox, "--network", network, "--cap-add", "NET_ADMIN", script=f"{way}; sleep 600"
                ) as name:
                    until(lambda name=name: "default via" in host.fleet.shoal("logs", name).stdout)
                    for (target, port), expected in zip(targets, reaches, strict=True):
                        if expected:
                            until(lambda n=name, t=target, p=port: "HTTP/1" in _page(host, n, t, p), what=target)
                        else:
                            assert _page(host, name, target, port) == "", (network, target)
        finally:
            server.kill()


def _page(host: Lab, client: str, target: str, port: int = 80) -> str:
    """What a container gets from a web server; "" where it gets nothing."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc -w 1 {target} {port}"
    return host.fleet.shoal("exec", client, "sh", "-c", script, code=None).stdout


def test_networks_are_apart_again_when_others_flush(host: Lab, nets: tuple[str, str], busybox: str) -> None:
    """Also for who may change its own routes; and not by the other's gateway or name server."""
    opened, shut = nets
    table = host.fleet.first.settings["network"]["nft_table"]
    with (
        _running(host, busybox, "--network", opened) as first,
        _running(host, busybox, "--network", shut) as second,
        _running(host, busybox, "--network", opened, "--cap-add", "NET_ADMIN", script="sleep 600") as attacker,
        _running(host, busybox, "--network", shut, script="sleep 600") as friend,
    ):
        targets = {network: _ip(host, name, network) for network, name in ((opened, first), (shut, second))}

        def as_it_should_be() -> bool:
            return "hello" in _page(host, attacker, targets[opened]) and "hello" in _page(host, friend, targets[shut])

        until(as_it_should_be, what="within a network")
        for command in ((), ("flush",), ("delete",)):
            for family in ("ip", "ip6"):
                if command:
                    subprocess.run(["nft", *command, "table", family, table], check=family == "ip", capture_output=True)
            # What was flushed is there again when the table has its rules.
            until(lambda: "drop" in _rules(table), what=f"rules are there again after {command}")
            until(as_it_should_be, what=f"within a network after {command}")
            assert _page(host, attacker, targets[shut]) == "", command
            host.fleet.shoal("exec", attacker, "ip", "route", "replace", targets[shut], "via", _gateway(host, opened))
            assert _page(host, attacker, targets[shut]) == "", command
            assert _page(host, friend, targets[opened]) == "", command
            asked = host.fleet.shoal("exec", attacker, "nslookup", second[:12], _gateway(host, shut), code=None)
            assert targets[shut] not in asked.stdout, command


def _rules(table: str) -> str:
    return subprocess.run(["nft", "list", "table", "ip", table], capture_output=True, text=True).stdout


def test_the_name_server_listens_in_its_networks_alone(host: Lab, nets: tuple[str, str], busybox: str) -> None:
    with _running(host, busybox, "--network", nets[0], "--network", nets[1], script="sleep 600"):
        directory = host.fleet.first.run_dir / "dns"
        pid = int((directory / "aardvark.pid").read_text())
        gateways = {_gateway(host, network) for network in nets}
        assert stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0
        inodes = set()
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(entry.path)))
        listening = {
            _address(words[1])
            for file in ("udp", "tcp", "udp6", "tcp6")
            for words in map(str.split, Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:])
            if words[9] in inodes and (file.startswith("udp") or words[3] == "0A")
        }
        assert listening == {f"{gateway}:53" for gateway in gateways}


def _address(text: str) -> str:
    """Of /proc/net/udp: 0100007F:0035."""
    address, _, port = text.partition(":")
    if len(address) != 8:
        return text
    return f"{socket.inet_ntoa(bytes.fromhex(address)[::-1])}:{int(port, 16)}"
