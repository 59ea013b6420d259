"""`build --cache-from` and `--cache-to`: caches of builds in registries, in buildx's syntax."""

from __future__ import annotations

from typing import NamedTuple

from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoalctl.flags.fault import UsageFault

_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_IDLE = ("oci-mediatypes", "image-manifest", "compression", "compression-level", "force-compression")
"""Keys of buildx that say what is always so here, or makes no difference."""
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
    given = _fields(text, ("registry",), ("type", "ref"), _FROM)
    return _reference(text, given.get("ref", ""), _FROM)


def parse_cache_to(text: str) -> CacheTarget:
    """Raises UsageFault."""
    if "=" not in text:
        return CacheTarget(_reference(text, text, _TO))
    given = _fields(text, ("registry", "inline"), ("type", "ref", "mode", "ignore-error"), _TO)
    kind, mode = given.get("type", "registry"), given.get("mode", "min")
    ignore = _SWITCH.get(given.get("ignore-error", "false").lower())
    if mode not in ("min", "max") or ignore is None:
        raise UsageFault(f"invalid cache {text!r}", hint="mode is min or max, ignore-error true or false")
    if kind == "inline":
        if "ref" in given:
            raise UsageFault(f"invalid cache {text!r}: type=inline is in the image, and has no ref", hint=_TO)
        return CacheTarget("")
    reference = _reference(text, given.get("ref", ""), _TO)
    if "@" in reference:
        raise UsageFault(f"invalid cache {text!r}: a digest can't be written to", hint=_TO)
    return CacheTarget(reference, mode == "max", ignore)


def _fields(text: str, kinds: tuple[str, ...], known: tuple[str, ...], hint: str) -> dict[str, str]:
    given = dict(item.partition("=")[::2] for item in text.split(","))
    if (kind := given.get("type", "registry")) not in kinds:
        raise UsageFault(f"invalid cache {text!r}: there is no type {kind!r} here", hint=hint)
    for item in text.split(","):
        key, separator, _ = item.partition("=")
        if key not in (*known, *_IDLE) or not separator:
            raise UsageFault(f"invalid cache {text!r}: unknown part {item!r}", hint=hint)
    return given


def _reference(text: str, name: str, hint: str) -> str:
    try:
        if not name:
            raise InvalidArgument("ref=IMAGE is missing")
        return str(Reference.parse(name).with_default_tag())
    except InvalidArgument as error:
        raise UsageFault(f"invalid cache {text!r}: {error}", hint=hint) from error
