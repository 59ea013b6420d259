"""The WWW-Authenticate header (RFC 9110 section 11.6.1), as far as registries use it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

_MAX = 8192
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAM = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}|[^\s,"]+))')
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?=\s+{_TOKEN}\s*=|\s*,|\s*$)")


class Challenge(Struct, frozen=True):
    """How a registry wants to be asked: `scheme` is "basic" or "bearer" (or one we don't know), in lower case."""

    scheme: str
    realm: str = ""
    service: str = ""
    error: str = ""


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read all challenges of a response; what is malformed ends the header that holds it."""
    return [each for header in headers for each in _parse(header[:_MAX])]


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: Bearer before Basic; None when there is no other."""
    known = [each for each in challenges if each.scheme in ("bearer", "basic")]
    return min(known, key=lambda each: each.scheme != "bearer", default=None)


def _parse(header: str) -> Iterable[Challenge]:
    at = 0
    while found := _SCHEME.match(header, at):
        at = found.end()
        params: dict[str, str] = {}
        while (param := _PARAM.match(header, at)) is not None:
            at = param.end()
            value = re.sub(r"\\(.)", r"\1", param[2]) if param[2] is not None else param[3]
            params.setdefault(param[1].lower(), value)
        yield Challenge(found[1].lower(), params.get("realm", ""), params.get("service", ""), params.get("error", ""))
