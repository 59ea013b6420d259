"""Events of a host."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct, field


class Event(Struct, frozen=True):
    """Something that happened, in Docker's words; `cursor` increases with each event and is 0 before it is stored."""

    type: str
    """container, image, volume or daemon."""
    action: str
    actor_id: str
    time: datetime
    attributes: Mapping[str, str] = field(default_factory=dict)
    cursor: int = 0
