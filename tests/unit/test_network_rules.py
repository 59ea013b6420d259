"""Text of nft rules, of resolv.conf, and what is read from netlink; all pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from shoal.errors import Internal
from shoald.host import netlink
from shoald.network import conntrack, firewalld, forwarding
from shoald.network.addressing import bridge_prefix
from shoald.network.notifications import concerns
from shoald.network.resolv import FALLBACK_DNS, container_resolv_conf
from shoald.network.rules import (
    CHAINS,
    FAMILIES,
    IPV4,
    Family,
    Published,
    Segment,
    close_script,
    elements_of,
    open_script,
    rules_of,
    table_script,
    tables_script,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "network"
WEB = Published("tcp", "127.0.0.1", 8080, "10.209.0.2", 80)
DNS = Published("udp", "0.0.0.0", 53, "10.209.0.3", 5353)
WEB6 = Published("tcp", "2001:db8::1", 8080, "fd00:1::2", 80)
ANY6 = Published("udp", "::", 53, "fd00:1::2", 53)
DEFAULT = Segment("shoal0", ("10.209.0.0/20",))
BACK = Segment("shoal0-aaaaaaaa", ("10.209.128.0/24", "fd00:1::/64"), internal=True)
OPEN = Segment("shoal0-bbbbbbbb", ("10.209.129.0/24",), isolated=False)


@pytest.mark.parametrize(
    ("name", "segments", "published"),
    [
        ("empty", [DEFAULT], []),
        ("published", [DEFAULT], [WEB, DNS]),
        ("networks", [DEFAULT, BACK, OPEN], [WEB, WEB6, ANY6]),
    ],
)
def test_the_whole_table(name: str, segments: list[Segment], published: list[Published]) -> None:
    assert tables_script("shoal", segments, published) == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_counts_that_a_repair_goes_by(family: Family) -> None:
    segments = [DEFAULT, BACK, OPEN]
    lines = [line.strip() for line in table_script(family, "t", segments, [WEB, WEB6]).splitlines()]
    assert {line.split()[1] for line in lines if line.startswith("chain")} == CHAINS
    verdicts = {"drop", "accept", "return", "masquerade", "dnat"}
    assert sum(bool(verdicts & set(line.split())) for line in lines) == rules_of(family)
    elements = sum(line.startswith(('"', "10.", "fd", "tcp .")) for line in lines)
    assert elements == elements_of(family, segments, [WEB, WEB6])


def test_rules_do_not_grow_with_ports_and_networks() -> None:
    ports = [Published("tcp", "127.0.0.1", 1024 + n, "10.209.0.2", 80) for n in range(1000)]
    networks = [Segment(f"b{n}", (f"10.210.{n}.0/24",)) for n in range(100)]
    few, many = table_script(IPV4, "t", networks[:1], ports[:1]), table_script(IPV4, "t", networks, ports)
    chains = [text[text.index("  chain") :] for text in (few, many)]
    assert chains[0] == chains[1]
    assert open_script("t", ports[:1]).count("\n") == 1


def test_an_element_is_opened_and_closed() -> None:
    assert open_script("shoal", [WEB, DNS]) == (
        "add element ip shoal published { tcp . 127.0.0.1 . 8080 : 10.209.0.2 . 80 }\n"
        "add element ip shoal published_any { udp . 53 : 10.209.0.3 . 5353 }\n"
    )
    assert close_script("shoal", [DNS]) == (
        "add element ip shoal published_any { udp . 53 : 10.209.0.3 . 5353 }\n"
        "delete element ip shoal published_any { udp . 53 }\n"
    )


def chain(**fields: str) -> dict[str, object]:
    return {
        "chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"} | fields
    }


def admitted(objects: list[dict[str, object]], bridge: str) -> str:
    return "".join(forwarding.admit_scripts(objects, bridge).values())


def test_chains_that_drop_get_rules_once() -> None:
    objects = [chain(), chain(name="OUTPUT", hook="output"), chain(table="ok", policy="accept")]
    script = admitted(objects, "shoal0")
    assert script == "".join(
        f'insert rule ip filter FORWARD {side} "{name}" counter accept comment "shoal bridge shoal0"\n'
        for name in ("shoal0", "shoal0-*")
        for side in ("iifname", "oifname")
    )
    rule = {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7, "comment": "shoal bridge shoal0"}
    assert admitted([chain(), {"rule": rule}], "shoal0") == ""
    assert admitted([chain(), {"rule": rule}], "shoal1") != ""
    assert forwarding.withdraw_script([chain(), {"rule": rule}], "shoal0") == "delete rule ip filter FORWARD handle 7\n"
    assert forwarding.withdraw_script([chain(), {"rule": rule}], "shoal1") == ""


def test_the_name_server_is_reached_where_the_host_drops_what_it_gets() -> None:
    script = admitted([chain(family="inet", name="in", hook="input")], "shoal0")
    assert script == (
        'insert rule inet filter in iifname "shoal0-*" meta l4proto { tcp, udp } th dport 53'
        ' counter accept comment "shoal bridge shoal0"\n'
    )


@pytest.mark.parametrize(
    ("expressions", "shut"),
    [
        ([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}], True),
        ([{"counter": {"packets": 0, "bytes": 0}}, {"xt": {"type": "target", "name": "REJECT"}}], True),
        ([{"log": None}, {"drop": None}], True),
        ([{"match": {"op": "in", "left": {}, "right": "invalid"}}, {"drop": None}], False),
        ([{"xt": {"type": "match", "name": "conntrack"}}, {"drop": None}], False),
        ([{"jump": {"target": "x"}}], False),
        ([], False),
    ],
)
def test_a_last_rule_may_shut_a_chain_as_firewalld_does(expressions: list[dict[str, object]], shut: bool) -> None:
    rule = {"family": "inet", "table": "firewalld", "chain": "filter_FORWARD", "handle": 1, "expr": expressions}
    objects = [chain(family="inet", table="firewalld", name="filter_FORWARD", policy="accept"), {"rule": rule}]
    assert bool(forwarding.closed(objects)) is shut


def test_each_table_is_asked_by_itself_for_one_may_have_an_owner() -> None:
    scripts = forwarding.admit_scripts([chain(), chain(family="inet", table="firewalld")], "shoal0")
    assert list(scripts) == [("ip", "filter"), ("inet", "firewalld")]
    assert all(table[1] in script for table, script in scripts.items())


@pytest.mark.parametrize("hook", ["forward", "input"])
def test_what_firewalld_shuts_for_a_reload_or_in_panic_stays_shut(hook: str) -> None:
    assert admitted([chain(family="inet", table="firewalld_policy_drop", name="filter_x", hook=hook)], "shoal0") == ""


@pytest.mark.parametrize(
    ("text", "strict"),
    [("", False), ("# StrictForwardPorts=yes\n", False), ("A=b\nStrictForwardPorts=yes\n", True)],
)
def test_strict_firewalls_are_known_by_their_configuration(text: str, strict: bool) -> None:
    assert firewalld.strict(text) is strict


class Refused:
    """nft where a table has an owner."""

    def __init__(self) -> None:
        self.tables: list[str] = []

    async def apply(self, script: str) -> None:
        self.tables.append(script.split()[3])
        if "firewalld" in script:
            raise Internal("Operation not permitted", reason="NFT_REFUSED")


@pytest.mark.parametrize("zone", [False, True])
async def test_an_owner_is_asked_once_for_a_zone_and_others_get_their_rules(
    monkeypatch: pytest.MonkeyPatch, zone: bool
) -> None:
    nft, asked = Refused(), []

    async def chains() -> list[dict[str, object]]:
        return [chain(family="inet", table="firewalld"), chain()]

    async def has_zone(bridge: str) -> bool:
        return zone

    async def enlist(bridge: str) -> None:
        asked.append(bridge)

    monkeypatch.setattr(forwarding, "nft", nft)
    monkeypatch.setattr(forwarding, "_chains", chains)
    monkeypatch.setattr(firewalld, "has_zone", has_zone)
    monkeypatch.setattr(firewalld, "enlist", enlist)
    assert await forwarding.admit("shoal0")
    assert asked == ([] if zone else ["shoal0"])
    assert nft.tables == (["filter"] if zone else ["firewalld", "filter"])


@pytest.mark.parametrize("bridge", ["shoal0", "shoal12", "a-long-bridge-0"])
def test_names_for_firewalld_are_short_enough_and_differ(bridge: str) -> None:
    names = firewalld.policy_names(bridge)
    assert len(set(names)) == 2
    assert all(len(name) <= 11 for name in names)
    zone, *policies = firewalld.documents(bridge).values()
    assert zone[0] == "zone"
    assert f'<interface name="{bridge_prefix(bridge)}+"/>' in zone[1]
    assert [kind for kind, _ in policies] == ["policy", "policy"]


@pytest.mark.parametrize("name", ["a b", "a;flush ruleset", "a\nflush ruleset", '"', ""])
def test_names_of_others_never_reach_a_script(name: str) -> None:
    assert admitted([chain(name=name), chain(table=name)], "shoal0") == ""


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("search a.b\nnameserver 192.0.2.1\noptions ndots:2\n", "search a.b\nnameserver 192.0.2.1\noptions ndots:2\n"),
        ("# c\n; c\n\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"),
        ("nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.1", "nameserver 192.0.2.1\n"),
        ("nameserver\nnameserver x\nnameserver 127.0.0.53", "".join(f"nameserver {n}\n" for n in FALLBACK_DNS)),
        ("", "".join(f"nameserver {n}\n" for n in FALLBACK_DNS)),
    ],
)
def test_resolv_conf(host: str, wanted: str) -> None:
    assert container_resolv_conf(host) == wanted


def test_resolv_conf_of_networks_with_names() -> None:
    host = "search a.b\nnameserver 192.0.2.1\noptions ndots:2\n"
    assert container_resolv_conf(host, ["10.209.128.1", "fd00::1"]) == (
        "nameserver 10.209.128.1\nnameserver fd00::1\nsearch a.b\noptions ndots:2\n"
    )


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload


def test_which_changes_concern_us() -> None:
    new_rule, deleted_rule, new_chain = (10 << 8) | 6, (10 << 8) | 8, (10 << 8) | 3
    assert not concerns(b"")
    assert not concerns(message(new_rule, b"x" * 8) + message((1 << 8) | 2))
    assert concerns(message(new_rule, b"x" * 8) + message(deleted_rule))
    assert concerns(message(new_chain))
    assert not concerns(struct.pack("=IHHII", 0, new_rule, 0, 0, 0) + message(deleted_rule))


def flow(protocol: int, original: tuple[str, str, int], reply: tuple[str, str, int]) -> bytes:
    def one(kind: int, source: str, destination: str, port: int) -> bytes:
        addresses = [netlink.attribute(n, IPv4Address(a).packed) for n, a in ((1, source), (2, destination))]
        ports = [netlink.u8(1, protocol), netlink.attribute(2, b"\0\1"), netlink.attribute(3, struct.pack("!H", port))]
        return netlink.nested(kind, netlink.nested(1, *addresses), netlink.nested(2, *ports))

    return b"\x02\0\0\0" + one(1, *original) + one(2, *reply) + netlink.attribute(12, b"\0\0\0\7")


CONTAINER = IPv4Address("10.88.64.2")


@pytest.mark.parametrize(
    ("payload", "stale"),
    [
        (flow(17, ("192.0.2.9", "192.0.2.1", 53), ("10.88.64.2", "192.0.2.9", 1)), True),
        (flow(17, ("192.0.2.9", "192.0.2.1", 53), ("192.0.2.1", "192.0.2.9", 1)), True),
        (flow(17, ("192.0.2.9", "192.0.2.1", 54), ("192.0.2.1", "192.0.2.9", 1)), False),
        (flow(17, ("10.88.64.9", "192.0.2.53", 53), ("192.0.2.53", "192.0.2.1", 1)), False),
        (flow(17, ("10.88.64.9", "10.88.64.2", 99), ("10.88.64.2", "10.88.64.9", 1)), False),
        (flow(6, ("192.0.2.9", "192.0.2.1", 53), ("10.88.64.2", "192.0.2.9", 1)), False),
    ],
    ids=["redirected", "to the host", "other port", "masqueraded", "direct", "tcp"],
)
def test_flows_to_forget(payload: bytes, stale: bool) -> None:
    found = conntrack.parse_flow(payload)
    assert found is not None
    assert conntrack.stale(found, {53}, CONTAINER) is stale
    assert conntrack.parse_flow(payload[:30]) is None
