"""The default of fields that are mappings.

What flags become is told by named tuples and not by dataclasses: those take four times as long to be defined, which was
a tenth of the time that `shoal run` took to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

EMPTY: Mapping[str, Any] = MappingProxyType({})
"""Shared by all, and nobody can write to it."""
