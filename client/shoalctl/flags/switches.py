"""Switches with a value, `--rm=true` and `--sig-proxy=false`: Go's flag package takes them, and scripts use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault

_TRUE = frozenset({"true", "t", "1", "TRUE", "True", "T"})
_FALSE = frozenset({"false", "f", "0", "FALSE", "False", "F"})


class Option(NamedTuple):
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
        if word == "--" or (not interspersed and (word == "-" or not word.startswith("-"))):
            return [*out, word, *rest]
        name, assigned, value = word.partition("=")
        option = options.get(name)
        if option is None or not word.startswith("--") or (assigned and option.takes_value):
            out.append(word)
            if rest and _takes_next(word, options):
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


def _takes_next(word: str, options: Mapping[str, Option]) -> bool:
    """Whether a cluster of short options (`-it`, `-m512m`) ends with one whose value is the next word.

    The first letter that takes a value owns the rest of the word.
    """
    if word.startswith("--"):
        return False
    for at, letter in enumerate(word[1:], 2):
        option = options.get(f"-{letter}")
        if option is None:
            return False
        if option.takes_value:
            return at == len(word)
    return False
