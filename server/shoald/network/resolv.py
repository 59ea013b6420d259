"""/etc/resolv.conf for containers of bridge networks."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from pathlib import Path

FALLBACK_DNS = ("8.8.8.8", "8.8.4.4")
"""As Docker: when the host knows only resolvers on its own loopback, which a container can't reach."""
_STUB = "127.0.0.53"
_HOST_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


def container_resolv_conf(text: str, own: Sequence[str] = ()) -> str:
    """The host's resolv.conf without servers that a container can't reach, or with its networks' `own` servers in their
    place; pure.

    Those on loopback mean something else there, and the default network has no IPv6: as in Docker both are left out.
    """
    kept, servers = [f"nameserver {server}" for server in own], len(own)
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith(("#", ";")):
            continue
        if words[0] == "nameserver":
            if own or not _reachable(words[1:]):
                continue
            servers += 1
        kept.append(line)
    if not servers:
        kept += [f"nameserver {server}" for server in FALLBACK_DNS]
    return "\n".join(kept) + "\n"


def _reachable(words: list[str]) -> bool:
    try:
        return bool(words) and not ipaddress.IPv4Address(words[0]).is_loopback
    except ValueError:
        return False


def host_resolv_conf() -> str:
    """The host's own; where systemd-resolved stands in front, the file with the servers behind it. "" when there is
    none."""
    for path in _HOST_FILES:
        with contextlib.suppress(OSError):
            text = Path(path).read_text(errors="replace")
            if ["nameserver", _STUB] not in [line.split()[:2] for line in text.splitlines()]:
                return text
    return ""
