"""Beside a real firewalld, with traffic from outside: its reloads, its end and its panic."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoald.network.addressing import bridge_prefix
from tests.support.daemon import BIN, Fleet, running_fleet, until
from tests.support.firewalld import (
    ANSWER,
    HOST_ADDRESS,
    OUTSIDE_ADDRESS,
    Firewalld,
    missing,
    running_firewalld,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}")

SERVE = "while true; do echo {0} | nc -l -p 80; done"
OPEN, OTHER, LOCAL = 8080, 8081, 8082
BRIEFLY = 0.4
"""Nothing is on the way but two links: what has not come by then, in seconds, was dropped."""


@pytest.fixture(scope="module")
def firewalld() -> Iterator[Firewalld]:
    with running_firewalld() as running:
        yield running


@pytest.fixture(scope="module")
def archive(host: Fleet, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image: the registry can't be reached from the namespace."""
    file = tmp_path_factory.mktemp("image") / "busybox.tar"
    host.shoal("pull", "-q", busybox)
    host.shoal("save", "-o", file, busybox)
    return file


@pytest.fixture(scope="module")
def guarded(firewalld: Firewalld, archive: Path, busybox: str) -> Iterator[Fleet]:
    """A host behind firewalld with containers: one on the default network, one on another, one for this host alone."""
    with running_fleet(1, within=firewalld.within) as fleet:
        fleet.shoal("load", "-i", archive)
        fleet.shoal("network", "create", "front")
        for name, port, flags in (
            ("web", f"0.0.0.0:{OPEN}:80", ()),
            ("named", f"0.0.0.0:{OTHER}:80", ("--network", "front")),
            ("local", f"127.0.0.1:{LOCAL}:80", ()),
        ):
            fleet.shoal("run", "-d", "--name", name, "-p", port, *flags, busybox, "sh", "-c", SERVE.format(name))
        yield fleet


def reaches_out(fleet: Fleet, name: str) -> bool:
    command = f"nc -w 2 {OUTSIDE_ADDRESS} 80 </dev/null"
    return fleet.shoal("exec", name, "sh", "-c", command, code=None).stdout.strip() == ANSWER


def finds_names(fleet: Fleet) -> bool:
    return fleet.shoal("exec", "named", "nslookup", "named", code=None).returncode == 0


def all_is_well(fleet: Fleet, fw: Firewalld) -> None:
    """What was promised is open, and nothing else."""
    for port, name in ((OPEN, "web"), (OTHER, "named")):
        until(lambda port=port: fw.stranger_hears(HOST_ADDRESS, port), what=f"{name} from outside")
        assert fw.stranger_hears(HOST_ADDRESS, port) == name
    until(lambda: fw.host_hears("127.0.0.1", LOCAL) == "local", what="local from the host")
    for name in ("web", "named"):
        until(lambda name=name: reaches_out(fleet, name), what=f"{name} reaches out")
    until(lambda: finds_names(fleet), what="names")
    assert fw.stranger_hears(HOST_ADDRESS, LOCAL, BRIEFLY) == ""
    address = fleet.shoal("inspect", "web", "--format", "{{.NetworkSettings.IPAddress}}").stdout.strip()
    subprocess.run([*fw.outside, "ip", "route", "replace", f"{address}/32", "via", HOST_ADDRESS], check=True)
    assert fw.stranger_hears(address, 80, BRIEFLY) == ""


@pytest.mark.parametrize("command", ["--reload", "--complete-reload"])
def test_ports_and_ways_out_stay_when_firewalld_reloads(firewalld: Firewalld, guarded: Fleet, command: str) -> None:
    all_is_well(guarded, firewalld)
    firewalld.command(command)
    all_is_well(guarded, firewalld)


def test_they_stay_while_firewalld_is_away_and_when_it_comes_back(firewalld: Firewalld, guarded: Fleet) -> None:
    firewalld.stop()
    all_is_well(guarded, firewalld)
    firewalld.start()
    all_is_well(guarded, firewalld)
    guarded.first.restart()
    all_is_well(guarded, firewalld)


def test_panic_is_for_containers_too(firewalld: Firewalld, guarded: Fleet) -> None:
    firewalld.command("--panic-on")
    try:
        assert firewalld.stranger_hears(HOST_ADDRESS, OPEN) == ""
        assert firewalld.host_hears("127.0.0.1", LOCAL) == ""
        assert firewalld.nft("list", "table", "inet", "firewalld_policy_drop").count("accept") == 0
    finally:
        firewalld.command("--panic-off")
    all_is_well(guarded, firewalld)


def test_where_rules_are_not_taken_a_zone_does_it(firewalld: Firewalld, guarded: Fleet) -> None:
    """The zone is made as for a table with an owner, which not every version can have."""
    bridge = guarded.first.settings["network"]["bridge"]
    network("firewalld", "enlist", bridge, firewalld)
    assert f"{bridge_prefix(bridge)}+" in firewalld.command(f"--zone={bridge}", "--list-interfaces").split()
    assert "shoal bridge" not in firewalld.nft("list", "ruleset")
    all_is_well(guarded, firewalld)
    firewalld.command("--reload")
    all_is_well(guarded, firewalld)
    assert "shoal bridge" not in firewalld.nft("list", "ruleset")
    assert f"its zone {bridge}" in doctor(guarded, firewalld)
    # It goes with the daemon.
    network("forwarding", "withdraw", bridge, firewalld)
    assert bridge not in firewalld.command("--permanent", "--get-zones").split()
    assert firewalld.command("--permanent", "--get-policies") == "allow-host-ipv6"
    all_is_well(guarded, firewalld)


def test_the_doctor_tells(firewalld: Firewalld, guarded: Fleet) -> None:
    found = doctor(guarded, firewalld)
    assert found.startswith("ok")
    assert "containers pass" in found


def doctor(fleet: Fleet, fw: Firewalld) -> str:
    argv = [*fw.within, BIN / "shoald", "doctor", "--config", fleet.first.config_file]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
    return next(line for line in out.splitlines() if " firewalld " in line)


def network(module: str, function: str, bridge: str, fw: Firewalld) -> None:
    program = f"import asyncio\nfrom shoald.network import {module}\nasyncio.run({module}.{function}({bridge!r}))\n"
    subprocess.run([*fw.within, sys.executable, "-c", program], check=True, timeout=60)
