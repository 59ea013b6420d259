"""Switches with a value, `--rm=true` and `--sig-proxy=false`: Go's flag package takes them, and scripts use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoalctl.flags.fault import UsageFault

_TRUE = frozenset({"true", "t", "1", "TRUE", "True", "T"})
_FALSE = frozenset({"false", "f", "0", "FALSE", "False", "F"})


@dataclass(frozen=True)
class Option:
    """An option by one of its names. `takes_value` False: a switch, and `off` the name that switches it off, or ""."""

    takes_value: bool
    off: str = ""


def with_plain_switches(arguments: Sequence[str], options: Mapping[str, Option], *, interspersed: bool) -> list[str]:
    """The arguments with switches that have a value as plain ones, or left out where the value is false; pure.

    What comes after `--` is left alone, and so is what comes after the first argument that is no option, unless options
    may stand there too. Raises UsageFault for a value that is neither true nor false.
    """
    out: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--" or (not word.startswith("-") and not interspersed):
            return [*out, word, *rest]
        name, assigned, value = word.partition("=")
        option = options.get(name)
        if option is None or not word.startswith("--") or (assigned and option.takes_value):
            out.append(word)
            # A cluster of short options ends with the one that takes the next word.
            last = options.get(f"-{word[-1]}") if _is_short(word) else option
            if last is not None and last.takes_value and not assigned and rest:
                out.append(rest.pop(0))
        elif not assigned:
            out.append(word)
            if option.takes_value and rest:
                out.append(rest.pop(0))
        elif value in _TRUE:
            out.append(name)
        elif value in _FALSE:
            out += [option.off] if option.off else []
        else:
            raise UsageFault(f"invalid value {value[:80]!r} for {name}: true or false")
    return out


def _is_short(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word[1] != "-"
