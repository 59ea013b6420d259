"""What the daemons of sandboxes get: never the same thing twice, and always a configuration that is valid."""

from __future__ import annotations

import ipaddress
import itertools
from pathlib import Path

import pytest

from shoal.errors import AlreadyExists, InvalidArgument
from shoald import config as configuration
from shoald.config import Config
from shoald.config_check import check
from shoald.sandbox import enrol
from shoald.sandbox.plan import (
    MAX_HOSTS,
    SLOTS,
    PlannedHost,
    base_config,
    check_request,
    overlaps,
    parse_routes,
    plan,
    preferred_ports,
    subnet,
)
from shoald.sandbox.processes import write_config

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000C10A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


def _plan(slot: int, count: int) -> tuple[PlannedHost, ...]:
    ports = [preferred_ports(slot, number) for number in range(1, count + 1)]
    return plan(Config(), Path("/var/lib/shoal-sandbox/x"), "x", slot, ports)


@pytest.mark.parametrize("count", [1, 2, MAX_HOSTS])
def test_no_two_daemons_of_any_sandboxes_share_anything(count: int) -> None:
    configs = [host.config for slot in range(SLOTS) for host in _plan(slot, count)]
    for value in (
        lambda c: c.run_dir,
        lambda c: c.listen,
        lambda c: c.metrics_listen,
        lambda c: c.network.bridge,
        lambda c: c.network.nft_table,
        lambda c: c.network.publish_address,
        lambda c: c.runtime.cgroup_parent,
    ):
        assert len({value(each) for each in configs}) == len(configs)
    networks = sorted(ipaddress.IPv4Network(each.network.subnet) for each in configs)
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(networks))
    ids = sorted((each.userns.base, each.userns.base + each.userns.size * each.userns.slots) for each in configs)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ids))
    usual = Config().userns
    assert ids[0][0] >= usual.base + usual.size * usual.slots


@pytest.mark.parametrize("count", [1, MAX_HOSTS])
def test_every_plan_is_a_valid_configuration_that_survives_its_file(tmp_path: Path, count: int) -> None:
    for slot in (0, SLOTS - 1):
        for host in _plan(slot, count):
            check(host.config)
            moved = PlannedHost(host.name, tmp_path, host.config)
            write_config(moved)
            assert configuration.load(moved.config_file, {}, {}) == host.config


def test_the_first_sandbox_publishes_where_people_expect_it() -> None:
    assert [host.config.network.publish_address for host in _plan(0, 2)] == ["127.0.0.1", "127.0.0.2"]


def test_routes_of_the_machine_are_respected_but_a_default_or_all_of_net_10_is_not_one() -> None:
    routes = parse_routes(ROUTES)
    assert [str(route) for route in routes] == ["0.0.0.0/0", "10.193.0.0/16"]
    assert [overlaps(slot, routes) for slot in (0, 1, 2)] == [False, True, False]
    assert not overlaps(0, [ipaddress.IPv4Network("10.0.0.0/8")])
    assert subnet(1, 1).subnet_of(routes[1])


def test_the_environment_passes_runtime_and_registries_but_not_places() -> None:
    env = {"SHOALD_RUNTIME_NAME": "runc", "SHOALD_ROOT": "/x", "SHOALD_LISTEN": "a:1", "SHOALD_LOG_LEVEL": "debug"}
    config = base_config(env)
    assert (config.runtime.name, config.log_level) == ("runc", "debug")
    assert (config.root, config.listen) == (Config().root, ())


@pytest.mark.parametrize(
    ("hosts", "group"), [(0, "x"), (MAX_HOSTS + 1, "x"), (1, ""), (1, "a/b"), (1, "../x"), (1, "X")]
)
def test_bad_requests(hosts: int, group: str) -> None:
    with pytest.raises(InvalidArgument):
        check_request(hosts, group)


MINE = """# mine
default = ["db"]
[hosts.db]
address = "10.0.0.1:7443"   # keep
[groups]
mine = ["db"]
"""


def test_enrolment_leaves_the_rest_of_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(MINE)
    hosts = _plan(0, 2)
    names = [host.name for host in hosts]
    enrol.check(file, "x", names)
    enrol.enrol(file, "x", tmp_path, hosts)
    text = file.read_text()
    assert 'x = ["x-1", "x-2"]' in text
    assert "# keep" in text
    enrol.check(file, "x", names)  # its own entries are no obstacle
    enrol.enrol(file, "x", tmp_path, hosts)
    assert file.read_text() == text
    for _ in range(2):
        enrol.withdraw(file, "x", names)
        assert [line for line in file.read_text().splitlines() if line] == MINE.splitlines()


def test_enrolment_makes_a_private_file_and_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dir" / "real.toml", tmp_path / "link.toml"
    link.symlink_to(real)
    enrol.enrol(link, "x", tmp_path, _plan(0, 1))
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600


def test_names_and_groups_of_others_are_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[hosts.x-1]\naddress = "a:1"\n[groups]\nx = ["x-1"]\n')
    with pytest.raises(AlreadyExists, match="x-1"):
        enrol.check(file, "x", ["x-1"])
    before = file.read_text()
    enrol.withdraw(file, "x", ["x-1"])
    assert file.read_text() == before
    file.write_text("broken = [")
    with pytest.raises(InvalidArgument, match=r"config\.toml"):
        enrol.check(file, "x", ["x-1"])


def test_where_the_client_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert str(enrol.client_config({"SHOAL_CONFIG": "/a/b.toml"})) == "/a/b.toml"
    assert str(enrol.client_config({"XDG_CONFIG_HOME": "/x"})) == "/x/shoal/config.toml"
    assert str(enrol.client_config({"XDG_CONFIG_HOME": "relative"})) == "/home/me/.config/shoal/config.toml"


def test_the_client_and_the_sandbox_look_in_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoalctl.config_file import config_path

    for env in ({}, {"SHOAL_CONFIG": "/a/b.toml"}, {"XDG_CONFIG_HOME": "/x"}, {"XDG_CONFIG_HOME": "rel"}):
        assert enrol.client_config(env) == config_path(env)
