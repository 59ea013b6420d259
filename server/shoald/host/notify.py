"""Messages to the service manager: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

READY, STOPPING, RELOADING = "READY=1", "STOPPING=1", "RELOADING=1"


def status(text: str) -> str:
    """The state line that `systemctl status` shows; newlines become spaces."""
    return "STATUS=" + " ".join(text.split())


def notify(*states: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send states (`READY`, `STOPPING`, `status(...)`) to $NOTIFY_SOCKET; False when there is none or nobody listens.

    Never raises for a manager that is gone and never blocks: the service goes on without it.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    # "@name" is the abstract socket "\0name"; vsock: and others are for virtual machines' managers.
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto("\n".join(states).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return False
    return True
