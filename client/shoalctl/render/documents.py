"""JSON documents for people: indented, keys in the order in which they were given."""

from __future__ import annotations

import json
from typing import Any

from shoalctl.render import console


def show(document: Any) -> None:
    """Print a document as docker's inspect does, with four spaces."""
    console.out(json.dumps(document, indent=4, ensure_ascii=False))
