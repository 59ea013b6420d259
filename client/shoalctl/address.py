"""Where a daemon listens: `host:port` over mutual TLS, or `unix:///path` on this machine."""

from __future__ import annotations

import re
from typing import NamedTuple

from shoal.errors import InvalidArgument

DEFAULT_PORT = 7443

_SOCKET = "unix://"
# Narrow on purpose: gRPC reads `scheme:///...` in a target as an instruction how to resolve it.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")
_SPLIT = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")


class Address(NamedTuple):
    """A parsed address: either `socket` (an absolute path) or `host` and `port`. `str()` is the normal form.

    A missing port is 7443; an IPv6 address stands in brackets when a port follows.
    """

    host: str = ""
    port: int = 0
    socket: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address. Raises InvalidArgument (reason INVALID_ADDRESS)."""
        if text.startswith(_SOCKET):
            path = text.removeprefix(_SOCKET)
            if not path.startswith("/") or not path.isprintable():
                raise _invalid(text, "a socket's path is absolute: unix:///run/shoal/api/shoald.sock")
            return cls(socket=path)
        if "://" in text:
            raise _invalid(text, f"write host:port, without {text.partition('://')[0][:20]}://")
        if text.count(":") > 1 and _is_ipv6(text):
            return cls(text, DEFAULT_PORT)
        found = _SPLIT.fullmatch(text)
        if found is None:
            raise _invalid(text, "write host:port, [ipv6]:port or unix:///path")
        bracketed, name, port = found[1], found[2], int(found[3] or DEFAULT_PORT)
        if not (_is_ipv6(bracketed) if bracketed else _NAME.fullmatch(name)):
            raise _invalid(text, "the host is neither a DNS name nor an IP address")
        if not 1 <= port <= 65535:
            raise _invalid(text, "a port is a number from 1 to 65535")
        return cls(bracketed or name, port)

    @property
    def target(self) -> str:
        """The form that gRPC takes as a channel's target."""
        return f"unix:{self.socket}" if self.socket else str(self)

    def __str__(self) -> str:
        if self.socket:
            return _SOCKET + self.socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _invalid(text: str, hint: str) -> InvalidArgument:
    return InvalidArgument(f"invalid address {text[:160]!r}", reason="INVALID_ADDRESS", hint=hint)
