"""The installed version."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """As in the package's metadata."""
    return metadata.version("shoal")
