"""`build --cache-from` and `--cache-to`: caches of builds in registries, in buildx's syntax."""

from __future__ import annotations

from typing import NamedTuple

from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoalctl.flags.fault import UsageFault

_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_FROM = "write --cache-from IMAGE, or type=registry,ref=IMAGE"
_TO = "write --cache-to IMAGE, type=registry,ref=IMAGE[,mode=max], or type=inline"


class CacheTarget(NamedTuple):
    """Where a cache goes. An empty `reference` is the image itself (type=inline)."""

    reference: str
    all_steps: bool = False
    ignore_errors: bool = False


def parse_cache_from(text: str) -> str:
    """The reference. Raises UsageFault."""
    if "=" not in text:
        return _reference(text, text, _FROM)
    given = _fields(text, ("type", "ref"), _FROM)
    if given.get("type", "registry") != "registry":
        raise UsageFault(f"invalid cache {text!r}: there is no type {given['type']!r} to read from", hint=_FROM)
    return _reference(text, given.get("ref", ""), _FROM)


def parse_cache_to(text: str) -> CacheTarget:
    """Raises UsageFault."""
    if "=" not in text:
        return CacheTarget(_reference(text, text, _TO))
    given = _fields(text, ("type", "ref", "mode", "ignore-error"), _TO)
    kind, mode = given.get("type", "registry"), given.get("mode", "min")
    ignore = _SWITCH.get(given.get("ignore-error", "false"))
    if mode not in ("min", "max") or ignore is None:
        raise UsageFault(f"invalid cache {text!r}", hint="mode is min or max, ignore-error true or false")
    if kind == "inline":
        if "ref" in given or mode == "max":
            raise UsageFault(f"invalid cache {text!r}: type=inline has the result's layers only, and no ref", hint=_TO)
        return CacheTarget("")
    if kind != "registry":
        raise UsageFault(f"invalid cache {text!r}: there is no type {kind!r} to write to", hint=_TO)
    return CacheTarget(_reference(text, given.get("ref", ""), _TO), mode == "max", ignore)


def _fields(text: str, known: tuple[str, ...], hint: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for item in text.split(","):
        key, separator, value = item.partition("=")
        if key not in known or not separator:
            raise UsageFault(f"invalid cache {text!r}: unknown part {item!r}", hint=hint)
        given[key] = value
    return given


def _reference(text: str, name: str, hint: str) -> str:
    try:
        if not name:
            raise InvalidArgument("ref=IMAGE is missing")
        return str(Reference.parse(name).with_default_tag())
    except InvalidArgument as error:
        raise UsageFault(f"invalid cache {text!r}: {error}", hint=hint) from error
