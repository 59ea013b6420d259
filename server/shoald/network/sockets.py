"""Who listens on this host, from /proc/net."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path


def udp_listeners(port: int) -> set[str]:
    """Addresses on which a datagram socket is bound to a port. Blocks."""
    found = set()
    for file in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            text = Path(file).read_text()
        except FileNotFoundError:
            continue
        found |= parse_sockets(text, port)
    return found


def parse_sockets(text: str, port: int) -> set[str]:
    """The local addresses with a port in a table of /proc/net; pure."""
    found = set()
    for line in text.splitlines()[1:]:
        address, _, number = line.split()[1].partition(":")
        if int(number, 16) == port:
            words = bytes.fromhex(address)
            # 32-bit words in the order of this machine.
            packed = b"".join(struct.pack("!I", word) for word in struct.unpack(f"={len(words) // 4}I", words))
            found.add(str(ipaddress.ip_address(packed)))
    return found
