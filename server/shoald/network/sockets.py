"""Who listens on this host, from /proc/net."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path


def udp_listeners(port: int) -> dict[str, int]:
    """Addresses on which a datagram socket is bound to a port -> number of the socket. Blocks."""
    found: dict[str, int] = {}
    for file in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            text = Path(file).read_text()
        except FileNotFoundError:
            continue
        found |= parse_sockets(text, port)
    return found


def parse_sockets(text: str, port: int) -> dict[str, int]:
    """The same of a table of /proc/net; pure."""
    found: dict[str, int] = {}
    for fields in map(str.split, text.splitlines()[1:]):
        address, _, number = fields[1].partition(":")
        if int(number, 16) == port:
            words = bytes.fromhex(address)
            # 32-bit words in the order of this machine.
            packed = b"".join(struct.pack("!I", word) for word in struct.unpack(f"={len(words) // 4}I", words))
            found[str(ipaddress.ip_address(packed))] = int(fields[9])
    return found
