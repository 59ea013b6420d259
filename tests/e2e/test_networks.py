"""Networks by the installed commands: names, isolation, IPv6, changes while running, several daemons, kill -9."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoald.network.dns import find_program
from tests.support.daemon import Fleet, running_fleet, until
from tests.support.host_state import Host, disagreements

pytestmark = pytest.mark.skipif(not find_program(""), reason="needs aardvark-dns")

SERVE = "while true; do echo {0} | nc -l -p 80; done"


@pytest.fixture
def nets(host: Fleet) -> Iterator[Fleet]:
    """One host, without containers and networks afterwards."""
    yield host
    host.remove_containers()
    host.shoal("network", "prune", "-f")


def run(fleet: Fleet, image: str, name: str, *flags: str) -> None:
    fleet.shoal("run", "-d", "--name", name, *flags, image, "sh", "-c", SERVE.format(f"this-is-{name}"))


def asks(fleet: Fleet, name: str, target: str, *flags: str) -> str:
    """What a container hears from another's port 80; "" when it can't reach it."""
    done = fleet.shoal("exec", *flags, name, "sh", "-c", f"nc -w 1 {target} 80 </dev/null", code=None)
    return done.stdout.strip()


def hears(fleet: Fleet, name: str, target: str) -> None:
    """The servers of these tests serve one caller at a time."""
    until(lambda: asks(fleet, name, target), 15, f"{name} reaches {target}")


def details(fleet: Fleet, name: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(
        fleet.shoal("inspect", name, "--format", "{{json .NetworkSettings.Networks}}").stdout
    )
    return found


def test_containers_find_each_other_by_name_and_alias(nets: Fleet, busybox: str) -> None:
    network_id = nets.shoal("network", "create", "--label", "tier=web", "front").stdout.strip()
    run(nets, busybox, "web", "--network", "front", "--network-alias", "www", "--hostname", "site")
    run(nets, busybox, "client", "--network", "name=front,alias=asker")
    web_id = nets.shoal("ps", "-q", "--filter", "name=web").stdout.strip()
    for target in ("web", "www", "site", web_id):
        until(lambda target=target: asks(nets, "client", target) == "this-is-web", 15, target)
    hears(nets, "web", "asker")
    (row,) = [each for each in nets.json("network", "ls") if each["Name"] == "front"]
    assert (row["ID"], row["Driver"], row["Labels"]) == (network_id[:12], "bridge", "tier=web")
    (view,) = json.loads(nets.shoal("network", "inspect", network_id[:12]).stdout)
    assert sorted(each["Name"] for each in view["Containers"].values()) == ["client", "web"]
    assert list(details(nets, "web")) == ["front"]
    # The same after a restart, and not any more when it has stopped.
    nets.shoal("stop", "-t", "0", "web")
    assert asks(nets, "client", "web") == ""
    nets.shoal("start", "web")
    hears(nets, "client", "www")


def test_networks_are_apart_and_internal_ones_shut(nets: Fleet, busybox: str) -> None:
    nets.shoal("network", "create", "front")
    nets.shoal("network", "create", "--internal", "back")
    run(nets, busybox, "web", "--network", "front", "--network", "name=back,alias=site")
    run(nets, busybox, "db", "--network", "back")
    run(nets, busybox, "other")
    addresses = {name: [each["IPAddress"] for each in details(nets, name).values()] for name in ("web", "db", "other")}
    hears(nets, "db", "site")
    hears(nets, "web", "db")
    assert asks(nets, "other", addresses["db"][0]) == ""
    assert asks(nets, "other", addresses["web"][0]) == ""
    assert asks(nets, "db", addresses["other"][0]) == ""
    assert asks(nets, "other", "web") == ""
    assert "default" not in nets.shoal("exec", "db", "ip", "route").stdout
    assert "default" in nets.shoal("exec", "web", "ip", "route").stdout


def test_ipv6_and_chosen_addresses(nets: Fleet, busybox: str) -> None:
    subnet = f"10.{os.getpid() % 7 + 241}.{os.getpid() % 250}.0/24"
    prefix = subnet.removesuffix("0/24")
    nets.shoal(
        *("network", "create", "--subnet", subnet, "--gateway", f"{prefix}254", "--ip-range", f"{prefix}128/25"),
        *("--ipv6", "--subnet", "fd53:1::/64", "-o", "mtu=1300", "six"),
    )
    run(nets, busybox, "web", "--network", "six", "--ip", f"{prefix}9", "--ip6", "fd53:1::9")
    run(nets, busybox, "client", "--network", "six", "--mac-address", "02:00:00:00:00:77")
    web, client = details(nets, "web")["six"], details(nets, "client")["six"]
    assert (web["IPAddress"], web["GlobalIPv6Address"], web["Gateway"]) == (f"{prefix}9", "fd53:1::9", f"{prefix}254")
    assert (client["IPAddress"], client["MacAddress"]) == (f"{prefix}128", "02:00:00:00:00:77")
    link = nets.shoal("exec", "client", "ip", "link", "show", "eth0").stdout
    assert "mtu 1300" in link
    assert "02:00:00:00:00:77" in link
    nets.shoal("exec", "client", "ping", "-6", "-c", "1", "-W", "2", "web")
    taken = nets.shoal("run", "-d", "--network", "six", "--ip", f"{prefix}9", busybox, "true", code=125)
    assert "in use by container web" in taken.stderr


def test_connect_and_disconnect_while_running(nets: Fleet, busybox: str) -> None:
    nets.shoal("network", "create", "front")
    run(nets, busybox, "web", "-p", "80")
    run(nets, busybox, "client", "--network", "front")
    assert asks(nets, "client", "web") == ""
    nets.shoal("network", "connect", "--alias", "www", "front", "web")
    hears(nets, "client", "www")
    assert list(details(nets, "web")) == ["bridge", "front"]
    assert "front" in nets.json("ps", "--filter", "name=web")[0]["Networks"]
    # Published ports take the way that is left.
    address = nets.json("ps", "--filter", "name=web")[0]["Ports"].partition("->")[0]
    host, _, port = address.rpartition(":")
    nets.shoal("network", "disconnect", "bridge", "web")
    until(lambda: _dial(host, port) == "this-is-web", 15, "the published port")
    nets.shoal("restart", "-t", "0", "web")
    assert list(details(nets, "web")) == ["front"]
    hears(nets, "client", "www")
    again = nets.shoal("network", "connect", "front", "web", code=1)
    assert "already" in again.stderr
    nets.shoal("network", "disconnect", "front", "web")
    assert asks(nets, "client", "www") == ""
    assert "is not in network" in nets.shoal("network", "disconnect", "front", "web", code=1).stderr
    nets.shoal("network", "disconnect", "-f", "front", "web")
    actions = [json.loads(line) for line in nets.shoal("events", "--since", "10m", "--until", "0s", "--format", "json")
               .stdout.splitlines()]  # fmt: skip
    told = [event["Action"] for event in actions if event["Type"] == "network"]
    assert told[-3:] == ["connect", "disconnect", "disconnect"]


def _dial(host: str, port: str) -> str:
    try:
        with socket.create_connection((host, int(port)), 1) as connection:
            return connection.recv(100).decode().strip()
    except OSError as error:
        return f"error: {error}"


def test_a_network_in_use_stays(nets: Fleet, busybox: str) -> None:
    nets.shoal("network", "create", "front")
    run(nets, busybox, "web", "--network", "front")
    nets.shoal("stop", "-t", "0", "web")
    assert "in use by web" in nets.shoal("network", "rm", "front", code=1).stderr
    assert nets.shoal("network", "prune", "-f").stdout == ""
    nets.shoal("rm", "web")
    assert nets.shoal("network", "prune", "-f").stdout.strip() == "front"
    for name in ("bridge", "host", "none"):
        assert "predefined" in nets.shoal("network", "rm", name, code=1).stderr
    assert "no such network" in nets.shoal("network", "rm", "front", code=1).stderr
    nets.shoal("network", "rm", "-f", "front")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("network", "create", "bridge"), "reserved"),
        (("network", "create", "a b"), "invalid network name"),
        (("network", "create", "--subnet", "10.0.0.1/8", "x"), "invalid subnet"),
        (("network", "create", "--subnet", "127.0.0.0/16", "x"), "can't be used"),
        (("network", "create", "--gateway", "10.0.0.1", "x"), "needs a subnet"),
        (("network", "create", "-o", "color=red", "x"), "unknown option"),
        (("network", "create", "-d", "overlay", "x"), "no network driver"),
        (("run", "--network", "nowhere", "IMAGE", "true"), "no such network"),
        (("run", "--network", "a", "--network", "a", "IMAGE", "true"), "named twice"),
        (("run", "--network", "host", "--network", "a", "IMAGE", "true"), "can't be combined"),
        (("run", "--network", "name=a,color=red", "IMAGE", "true"), "not one of"),
        (("run", "--ip", "10.1.2.3", "IMAGE", "true"), "user-defined networks only"),
        (("run", "--network-alias", "x", "IMAGE", "true"), "user-defined networks only"),
        (("run", "-p", "[::]:80:80", "IMAGE", "true"), "IPv6"),
        (("run", "-p", "[::1]:80:80", "IMAGE", "true"), "publish on 127.0.0.1"),
        (("network", "connect", "nowhere", "nobody"), "no such"),
        (("network", "inspect", "nowhere"), "no such network"),
    ],
)
def test_bad_input_makes_nothing(nets: Fleet, busybox: str, arguments: tuple[str, ...], message: str) -> None:
    done = nets.shoal(*(busybox if word == "IMAGE" else word for word in arguments), code=None)
    assert done.returncode != 0
    assert message in done.stderr
    assert nets.json("ps", "-a") == []
    assert {each["Name"] for each in nets.json("network", "ls")} == {"bridge", "host", "none"}


def test_killed_daemons_leave_networks_as_they_should_be(nets: Fleet, busybox: str) -> None:
    daemon = nets.first
    nets.shoal("network", "create", "--ipv6", "front")
    nets.shoal("network", "create", "--internal", "back")
    run(nets, busybox, "web", "--network", "front", "-p", "80")
    run(nets, busybox, "db", "--network", "back", "--network", "front")
    for arguments in (
        ("network", "connect", "back", "web"),
        ("network", "disconnect", "front", "db"),
        ("network", "create", "third"),
        ("run", "-d", "--name", "late", "--network", "back", busybox, "sleep", "1000"),
        ("rm", "-f", "late"),
        ("network", "connect", "front", "db"),
    ):
        process = subprocess.Popen(
            nets.command(*arguments), env=nets.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda process=process: process.poll() is not None or _busy(), 5)
        daemon.kill()
        process.kill()
        process.wait()
        daemon.start()
        until(lambda: not disagreements(Host.of(daemon.settings)), 15, arguments)
        assert set(details(nets, "db")) | set(details(nets, "web")) <= {"front", "back"}
    nets.shoal("network", "connect", "back", "web", code=None)
    hears(nets, "web", "db")
    assert (daemon.run_dir / "dns" / "aardvark.pid").exists()


def _busy() -> bool:
    """A moment in the middle of a command, which differs from run to run."""
    time.sleep(random.uniform(0.15, 0.5))
    return True


def test_three_daemons_on_one_machine(busybox: str) -> None:
    with running_fleet(3) as fleet:
        fleet.shoal("network", "create", "front")
        subnets = set()
        for name in ("h1", "h2", "h3"):
            fleet.shoal("run", "-d", "-H", name, "--name", "web", "--network", "front", busybox, "sh", "-c",
                        SERVE.format(name))  # fmt: skip
            (view,) = json.loads(fleet.shoal("network", "inspect", "front", "-H", name).stdout)
            subnets.add(view["IPAM"]["Config"][0]["Subnet"])
            until(lambda name=name: asks(fleet, "web", "web", "-H", name) == name, 15, name)
        assert len(subnets) == 3
        first = json.loads(fleet.shoal("network", "inspect", "front", "-H", "h1").stdout)[0]
        (member,) = first["Containers"].values()
        assert asks(fleet, "web", member["IPv4Address"].partition("/")[0], "-H", "h2") == ""
        bridges = {
            json.loads(fleet.shoal("network", "inspect", "front", "-H", name).stdout)[0]["Bridge"]
            for name in ("h1", "h2", "h3")
        }
        # One that goes takes nothing of the others along.
        fleet.daemons[0].purge()
        until(lambda: asks(fleet, "web", "web", "-H", "h2") == "h2", 15, "h2")
        assert first["Bridge"] not in os.listdir("/sys/class/net")
        run_dirs = [str(daemon.run_dir) for daemon in fleet.daemons]
    assert not bridges & set(os.listdir("/sys/class/net"))
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if any(directory.encode() in line for directory in run_dirs)]


def built(fleet: Fleet, directory: Path, text: str, *flags: str, code: int = 0) -> str:
    (directory / "Dockerfile").write_text(text)
    return fleet.shoal("build", "-t", "it", *flags, directory, code=code).stderr


def test_steps_of_a_build_find_the_containers_of_a_network(nets: Fleet, busybox: str, tmp_path: Path) -> None:
    for name in ("back", "other"):
        nets.shoal("network", "create", name)
    run(nets, busybox, "web", "--network", "back")
    text = (
        f"FROM {busybox}\nRUN until nc -w 1 web 80 </dev/null >/heard && [ -s /heard ]; do sleep 0.1; done\n"
        "RUN --network=none ip -o link | grep -c . >/links\nRUN --network=default nslookup web >/found\n"
    )
    built(nets, tmp_path, text, "--network", "back")
    assert nets.shoal("run", "--rm", "it", "cat", "/heard", "/links").stdout == "this-is-web\n1\n"
    assert built(nets, tmp_path, text, "--network", "other").count("CACHED") == 4
    alone = f"FROM {busybox}\nRUN nc -w 1 web 80 </dev/null\n"
    for flags in ((), ("--network", "other")):
        assert "exit code: 1" in built(nets, tmp_path, alone, *flags, code=1)


def test_a_network_that_a_build_could_not_use(nets: Fleet, busybox: str, tmp_path: Path) -> None:
    said = built(nets, tmp_path, f"FROM {busybox}\nRUN echo it runs\n", "--network", "nosuch", code=1)
    assert "no such network: nosuch" in said
    assert "RUN" not in said
    assert "joins no container" in built(nets, tmp_path, f"FROM {busybox}\n", "--network", "container:x", code=2)


def test_a_network_stays_while_a_build_needs_it(nets: Fleet, busybox: str, tmp_path: Path) -> None:
    nets.shoal("network", "create", "back")
    text = f"FROM {busybox}\nRUN echo first\nRUN echo begins; until nc -w 1 go 80 </dev/null; do sleep 0.1; done\n"
    (tmp_path / "Dockerfile").write_text(text)
    command = nets.command("build", "--no-cache", "--progress", "plain", "--network", "back", tmp_path)
    with subprocess.Popen(command, env=nets.environment(), stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        lines = iter(build.stderr.readline, "")
        assert any(line.rstrip().endswith(" begins") for line in lines)
        assert "in use by a build" in nets.shoal("network", "rm", "back", code=1).stderr
        nets.shoal("network", "prune", "-f")
        # One that comes later is found, too.
        run(nets, busybox, "go", "--network", "back")
        assert "this-is-go" in "".join(lines)
        assert build.wait() == 0
    nets.remove_containers()
    nets.shoal("network", "rm", "back")
