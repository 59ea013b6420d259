"""Flags of an instruction, such as `--chown=1:1`: which are known, their kinds, and Docker's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from shoald.dockerfile.errors import did_you_mean


class Kind(Enum):
    """What a flag takes: `--x[=true|false]`, `--x=value` once, or `--x=value` any number of times."""

    BOOL = "bool"
    TEXT = "text"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Flags:
    """Parsed flags by name; what was not given is absent."""

    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """The value of a TEXT flag."""
        return self.values.get(name, (default,))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        """The values of a LIST flag, in order."""
        return self.values.get(name, ())

    def maybe(self, name: str) -> bool | None:
        """A BOOL flag, or None when it was not given."""
        return self.values[name][-1] == "true" if name in self.values else None

    def on(self, name: str) -> bool:
        """A BOOL flag that is false when it was not given."""
        return bool(self.maybe(name))


def parse_flags(given: Sequence[str], **known: Kind) -> Flags:
    """Read the flags of one instruction; `_` in a keyword stands for `-`. Raises ValueError with Docker's message."""
    kinds = {name.replace("_", "-"): kind for name, kind in known.items()}
    values: dict[str, list[str]] = {}
    for flag in given:
        name, assigned, value = flag[2:].partition("=")
        kind = kinds.get(name)
        if kind is None:
            raise ValueError(f"unknown flag: --{name[:200]}{did_you_mean(name, kinds)}")
        if name in values and kind is not Kind.LIST:
            raise ValueError(f"duplicate flag specified: --{name}")
        if kind is Kind.BOOL:
            if assigned and not value:
                raise ValueError(f"missing a value on flag: --{name}")
            value = value.lower() or "true"
            if value not in {"true", "false"}:
                raise ValueError(f"expecting boolean value for flag --{name}, not: {value}")
        elif not assigned:
            raise ValueError(f"missing a value on flag: --{name}")
        values.setdefault(name, []).append(value)
    return Flags({name: tuple(each) for name, each in values.items()})
