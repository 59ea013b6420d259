"""The nft rules of the bridge network as text; pure.

One map holds all published ports, so that one more costs one element, whatever their number. Two maps because a port
published on 0.0.0.0 stands for every local address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ANY = "0.0.0.0"
CHAINS = frozenset({"raw", "prerouting", "output", "postrouting", "forward"})
RULES = 14
"""How many rules `table_script` makes: fewer were found when somebody has removed some."""


@dataclass(frozen=True)
class Published:
    """A host port and where it leads; protocol "tcp" or "udp"."""

    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port: int

    @property
    def map_name(self) -> str:
        """Which map it stands in."""
        return "published_any" if self.host_ip == ANY else "published"

    @property
    def key(self) -> str:
        """The key of its element."""
        address = "" if self.host_ip == ANY else f"{self.host_ip} . "
        return f"{self.protocol} . {address}{self.host_port}"

    @property
    def element(self) -> str:
        """The whole element."""
        return f"{self.key} : {self.container_ip} . {self.container_port}"


def table_script(table: str, bridge: str, subnet: str, published: Iterable[Published]) -> str:
    """Replace the whole table in one transaction.

    raw: a container can't reach the host's loopback services through the bridge, which accepts 127.0.0.0/8 for the sake
    of published ports (the class of CVE-2020-8558). prerouting: what comes from outside for 127.0.0.1 is not
    redirected, or a neighbour on the link could reach ports that are published for this host only (moby#45610); the
    host's own connections take the chain output. forward: from outside only published ports are reachable, not a
    container's address. postrouting: traffic from 127.0.0.1 and a container's to its own published port need a source
    that answers.
    """
    elements: dict[str, list[str]] = {"published": [], "published_any": []}
    for port in published:
        elements[port.map_name].append(port.element)
    dnat = """\
    dnat ip to meta l4proto . ip daddr . th dport map @published
    fib daddr type local dnat ip to meta l4proto . th dport map @published_any
"""
    return f"""\
add table ip {table}
delete table ip {table}
table ip {table} {{
  map published {{
    type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
{_elements(elements["published"])}  }}
  map published_any {{
    type inet_proto . inet_service : ipv4_addr . inet_service
{_elements(elements["published_any"])}  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr != {subnet} drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
{dnat}  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{dnat}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
    oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
    oifname != {{ "lo", "{bridge}" }} ip saddr {subnet} masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" ct status dnat accept
    iifname "{bridge}" oifname "{bridge}" accept
    oifname "{bridge}" drop
  }}
}}
"""


def _elements(elements: Sequence[str]) -> str:
    if not elements:
        return ""
    return "    elements = {\n" + ",\n".join(f"      {element}" for element in elements) + "\n    }\n"


def open_script(table: str, published: Iterable[Published]) -> str:
    """Add elements."""
    return "".join(f"add element ip {table} {p.map_name} {{ {p.element} }}\n" for p in published)


def close_script(table: str, published: Iterable[Published]) -> str:
    """Delete elements; adding them first makes the deletion of one that is gone no error."""
    lines = [
        f"add element ip {table} {p.map_name} {{ {p.element} }}\ndelete element ip {table} {p.map_name} {{ {p.key} }}\n"
        for p in published
    ]
    return "".join(lines)
