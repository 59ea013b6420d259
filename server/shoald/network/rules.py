"""The nft rules of the bridge networks as text; pure.

One map holds all published ports, so that one more costs one element, whatever their number; sets hold the networks, so
that rules do not grow with them either. Two maps because a port published on 0.0.0.0 stands for every local address.
IPv4 and IPv6 have a table each, of one shape.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHAINS = frozenset({"raw", "prerouting", "output", "postrouting", "forward"})


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6. `unrouted`: sources that never leave a link."""

    name: str
    address: str
    any: str
    loopback: str
    unrouted: str
    spared: str = ""
    """A rule for the host's own connections."""


IPV4 = Family("ip", "ipv4_addr", "0.0.0.0", "127.0.0.0/8", "")
# Answers never come back to ::1: refused at once is better than no answer.
IPV6 = Family("ip6", "ipv6_addr", "::", "::1", "ip6 saddr != fe80::/10 ip6 saddr != :: ", "    ip6 daddr ::1 return\n")
FAMILIES = (IPV4, IPV6)


@dataclass(frozen=True)
class Published:
    """A host port and where it leads; protocol "tcp" or "udp"."""

    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port: int

    @property
    def family(self) -> Family:
        """Of its addresses."""
        return IPV6 if ":" in self.host_ip else IPV4

    @property
    def map_name(self) -> str:
        """Which map it stands in."""
        return "published_any" if self.host_ip == self.family.any else "published"

    @property
    def key(self) -> str:
        """The key of its element."""
        address = "" if self.host_ip == self.family.any else f"{self.host_ip} . "
        return f"{self.protocol} . {address}{self.host_port}"

    @property
    def element(self) -> str:
        """The whole element."""
        return f"{self.key} : {self.container_ip} . {self.container_port}"


@dataclass(frozen=True)
class Segment:
    """A network as the rules see it."""

    bridge: str
    subnets: tuple[str, ...]
    internal: bool = False
    isolated: bool = True

    def of(self, family: Family) -> list[str]:
        """Its subnets of a family."""
        return [subnet for subnet in self.subnets if (ipaddress.ip_network(subnet).version == 6) == (family is IPV6)]


def rules_of(family: Family) -> int:
    """How many rules a table has: fewer are found when somebody has removed some."""
    return 19 + bool(family.spared)


def sets_of(family: Family, segments: Sequence[Segment]) -> dict[str, list[str]]:
    """Set -> elements. `sources`: who may speak on which bridge; `outward`: who may go out; `open`: networks that are
    not apart from each other; `inner`: all of their addresses."""
    return {
        "bridges": [f'"{s.bridge}"' for s in segments],
        "within": [f'"{s.bridge}" . "{s.bridge}"' for s in segments],
        "sources": [f'"{s.bridge}" . {subnet}' for s in segments for subnet in s.of(family)],
        "outward": [subnet for s in segments if not s.internal for subnet in s.of(family)],
        "internal": [f'"{s.bridge}"' for s in segments if s.internal],
        "open": [f'"{s.bridge}"' for s in segments if not s.isolated and not s.internal],
        "inner": [subnet for s in segments for subnet in s.of(family)],
    }


def elements_of(family: Family, segments: Sequence[Segment], published: Iterable[Published]) -> int:
    """How many elements sets and maps have."""
    ports = sum(port.family is family for port in published)
    return ports + sum(len(elements) for elements in sets_of(family, segments).values())


def needs(family: Family, segments: Sequence[Segment]) -> bool:
    """Whether there is to be a table of a family: without IPv6 networks there is none."""
    return family is IPV4 or any(segment.of(family) for segment in segments)


def tables_script(table: str, segments: Sequence[Segment], published: Sequence[Published]) -> str:
    """Replace the tables of both families in one transaction; IPv6's goes when nothing needs it."""
    script = table_script(IPV4, table, segments, published)
    if needs(IPV6, segments):
        return script + table_script(IPV6, table, segments, published)
    return script


def table_script(family: Family, table: str, segments: Sequence[Segment], published: Iterable[Published]) -> str:
    """Replace the whole table in one transaction.

    raw: a container can't reach the host's loopback services through its bridge, which accepts 127.0.0.0/8 for the sake
    of published ports (the class of CVE-2020-8558), nor speak under an address that is not of its network, nor ask the
    name server of a network that it is not in. prerouting:
    what comes from outside for 127.0.0.1 is not redirected, or a neighbour on the link could reach ports that are
    published for this host only (moby#45610); the host's own connections take the chain output. forward: from outside,
    and from other networks, only published ports are reachable, not a container's address; an internal network is
    reached by nobody and reaches nobody. postrouting: traffic from 127.0.0.1 and a container's to its own published
    port need a source that answers.
    """
    ip = family.name
    elements: dict[str, list[str]] = {"published": [], "published_any": []}
    for port in published:
        if port.family is family:
            elements[port.map_name].append(port.element)
    sets = sets_of(family, segments)
    dnat = f"""\
    dnat {ip} to meta l4proto . {ip} daddr . th dport map @published
    fib daddr type local dnat {ip} to meta l4proto . th dport map @published_any
"""
    strange_names = (
        f"    iifname @bridges meta l4proto {{ tcp, udp }} th dport 53 {ip} daddr @inner fib daddr type local "
        f"iifname . {ip} daddr != @sources drop\n"
    )
    return f"""\
add table {ip} {table}
delete table {ip} {table}
table {ip} {table} {{
  map published {{
    type inet_proto . {family.address} . inet_service : {family.address} . inet_service
{_elements(elements["published"])}  }}
  map published_any {{
    type inet_proto . inet_service : {family.address} . inet_service
{_elements(elements["published_any"])}  }}
  set bridges {{
    type ifname
{_elements(sets["bridges"])}  }}
  set within {{
    type ifname . ifname
{_elements(sets["within"])}  }}
  set sources {{
    type ifname . {family.address}
    flags interval
{_elements(sets["sources"])}  }}
  set outward {{
    type {family.address}
    flags interval
{_elements(sets["outward"])}  }}
  set internal {{
    type ifname
{_elements(sets["internal"])}  }}
  set open {{
    type ifname
{_elements(sets["open"])}  }}
  set inner {{
    type {family.address}
    flags interval
{_elements(sets["inner"])}  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges {ip} daddr {family.loopback} drop
    iifname @bridges {family.unrouted}iifname . {ip} saddr != @sources drop
{strange_names}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {ip} daddr {family.loopback} return
{dnat}  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{family.spared}{dnat}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges {ip} saddr {family.loopback} masquerade
    oifname . {ip} saddr @sources ct status dnat masquerade
    oifname . {ip} saddr @sources return
    oifname != "lo" {ip} saddr @outward masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @within accept
    iifname @internal drop
    oifname @internal drop
    oifname @bridges ct state established,related accept
    oifname @bridges ct status dnat accept
    iifname @open oifname @open accept
    oifname @bridges drop
  }}
}}
"""


def _elements(elements: Sequence[str]) -> str:
    if not elements:
        return ""
    return "    elements = {\n" + ",\n".join(f"      {element}" for element in elements) + "\n    }\n"


def open_script(table: str, published: Iterable[Published]) -> str:
    """Add elements."""
    return "".join(f"add element {p.family.name} {table} {p.map_name} {{ {p.element} }}\n" for p in published)


def close_script(table: str, published: Iterable[Published]) -> str:
    """Delete elements; adding them first makes the deletion of one that is gone no error."""
    lines = [
        f"add element {p.family.name} {table} {p.map_name} {{ {p.element} }}\n"
        f"delete element {p.family.name} {table} {p.map_name} {{ {p.key} }}\n"
        for p in published
    ]
    return "".join(lines)
