"""What TLS to a host is made with."""

from __future__ import annotations

from typing import NamedTuple


class Credentials(NamedTuple):
    """PEM bytes; empty for a unix socket."""

    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""
