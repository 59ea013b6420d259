"""Choosing hosts by label: `role=web`, `role!=web`, or `role` (has the label at all)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shoal.errors import InvalidArgument


class LabelSelector(NamedTuple):
    """One condition; `value` is None when the label only has to be there."""

    key: str
    value: str | None = None
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Read a condition. Raises InvalidArgument (reason INVALID_SELECTOR)."""
        key, equals, value = text.partition("=")
        negated = bool(equals) and key.endswith("!")
        key = key.removesuffix("!") if negated else key
        if not key or key != key.strip() or "!" in key:
            raise InvalidArgument(
                f"invalid label selector {text[:80]!r}",
                reason="INVALID_SELECTOR",
                hint="write key=value, key!=value or key",
            )
        return cls(key, value if equals else None, negated)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the condition holds; a missing label satisfies `!=`."""
        if self.value is None:
            return self.key in labels
        return (labels.get(self.key) == self.value) != self.negated

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}{'!' if self.negated else ''}={self.value}"
