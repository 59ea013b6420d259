"""Text of nft rules, of resolv.conf, and what is read from netlink; all pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from shoald.host import netlink
from shoald.network import conntrack, forwarding
from shoald.network.notifications import concerns
from shoald.network.resolv import FALLBACK_DNS, container_resolv_conf
from shoald.network.rules import CHAINS, RULES, Published, close_script, open_script, table_script

GOLDEN = Path(__file__).parents[1] / "golden" / "network"
WEB = Published("tcp", "127.0.0.1", 8080, "10.88.64.2", 80)
DNS = Published("udp", "0.0.0.0", 53, "10.88.64.3", 5353)


@pytest.mark.parametrize(("name", "published"), [("empty", []), ("published", [WEB, DNS])])
def test_the_whole_table(name: str, published: list[Published]) -> None:
    script = table_script("shoal", "shoal0", "10.88.64.0/20", published)
    assert script == (GOLDEN / f"{name}.nft").read_text()


def test_the_counts_that_a_repair_goes_by() -> None:
    lines = [line.strip() for line in table_script("t", "b", "10.0.0.0/8", [WEB]).splitlines()]
    assert {line.split()[1] for line in lines if line.startswith("chain")} == CHAINS
    verdicts = {"drop", "accept", "return", "masquerade", "dnat"}
    assert sum(bool(verdicts & set(line.split())) for line in lines) == RULES


def test_an_element_is_opened_and_closed() -> None:
    assert open_script("shoal", [WEB, DNS]) == (
        "add element ip shoal published { tcp . 127.0.0.1 . 8080 : 10.88.64.2 . 80 }\n"
        "add element ip shoal published_any { udp . 53 : 10.88.64.3 . 5353 }\n"
    )
    assert close_script("shoal", [DNS]) == (
        "add element ip shoal published_any { udp . 53 : 10.88.64.3 . 5353 }\n"
        "delete element ip shoal published_any { udp . 53 }\n"
    )


def chain(**fields: str) -> dict[str, object]:
    return {
        "chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"} | fields
    }


def test_chains_that_drop_get_rules_once() -> None:
    objects = [chain(), chain(name="INPUT", hook="input"), chain(table="ok", policy="accept")]
    script = forwarding.admit_script(objects, "shoal0")
    assert script == (
        'insert rule ip filter FORWARD iifname "shoal0" counter accept comment "shoal bridge shoal0"\n'
        'insert rule ip filter FORWARD oifname "shoal0" counter accept comment "shoal bridge shoal0"\n'
    )
    rule = {"table": "filter", "chain": "FORWARD", "handle": 7, "comment": "shoal bridge shoal0"}
    assert forwarding.admit_script([chain(), {"rule": rule}], "shoal0") == ""
    assert forwarding.admit_script([chain(), {"rule": rule}], "shoal1") != ""
    assert forwarding.withdraw_script([chain(), {"rule": rule}], "shoal0") == "delete rule ip filter FORWARD handle 7\n"
    assert forwarding.withdraw_script([chain(), {"rule": rule}], "shoal1") == ""


@pytest.mark.parametrize("name", ["a b", "a;flush ruleset", "a\nflush ruleset", '"', ""])
def test_names_of_others_never_reach_a_script(name: str) -> None:
    assert forwarding.admit_script([chain(name=name), chain(table=name)], "shoal0") == ""


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
