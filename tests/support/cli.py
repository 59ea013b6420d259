"""What the tests of the command share: ports nobody listens on, golden files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Shoal = Callable[..., tuple[int, str, str]]
"""Runs a command line; gives its exit code, standard output and standard error."""

GOLDEN = Path(__file__).parent.parent / "golden" / "cli"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def golden(name: str, text: str) -> None:
    """Compare with a file of tests/golden/cli; SHOAL_GOLDEN=write makes it."""
    path = GOLDEN / name
    if os.environ.get("SHOAL_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
