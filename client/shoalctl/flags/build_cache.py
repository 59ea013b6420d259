"""`build --cache-from` and `--cache-to`: caches of builds in registries and directories, in buildx's syntax."""

from __future__ import annotations

import re
from typing import NamedTuple

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoalctl.flags.fault import UsageFault

_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_IDLE = ("oci-mediatypes", "image-manifest", "compression", "compression-level", "force-compression")
"""Keys of buildx that say what is always so here, or makes no difference."""
_FROM = "write --cache-from IMAGE, type=registry,ref=IMAGE, or type=local,src=DIRECTORY[,tag=TAG]"
_TO = "write --cache-to IMAGE, type=registry,ref=IMAGE[,mode=max], type=local,dest=DIRECTORY[,mode=max], or type=inline"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}").fullmatch
LATEST = "latest"


class CacheTarget(NamedTuple):
    """Where a cache goes. An empty `reference` is the image itself (type=inline)."""

    reference: str
    all_steps: bool = False
    ignore_errors: bool = False


class LocalCache(NamedTuple):
    """A cache in a directory of this machine: what has the digest, else the tag; "": latest, or the only one."""

    path: str
    tag: str = ""
    digest: str = ""


class LocalTarget(NamedTuple):
    """A directory of this machine that a cache goes to, under a tag."""

    path: str
    tag: str = LATEST
    all_steps: bool = False
    ignore_errors: bool = False


def parse_cache_from(text: str) -> str | LocalCache:
    """The reference, or the directory. Raises UsageFault."""
    if "=" not in text:
        return _reference(text, text, _FROM)
    given = _fields(text, {"registry": ("ref",), "local": ("src", "digest", "tag")}, _FROM)
    if given.get("type") != "local":
        return _reference(text, given.get("ref", ""), _FROM)
    digest = given.get("digest", "")
    try:
        return LocalCache(_directory(text, given, "src", _FROM), _tag(text, given, ""), _digest(digest))
    except InvalidArgument as error:
        raise UsageFault(f"invalid cache {text!r}: {error}", hint=_FROM) from error


def parse_cache_to(text: str) -> CacheTarget | LocalTarget:
    """Raises UsageFault."""
    if "=" not in text:
        return CacheTarget(_reference(text, text, _TO))
    known = {
        "registry": ("ref", "mode", "ignore-error"),
        "inline": ("ref", "mode", "ignore-error"),
        "local": ("dest", "tag", "mode", "ignore-error"),
    }
    given = _fields(text, known, _TO)
    kind, mode = given.get("type", "registry"), given.get("mode", "min")
    ignore = _SWITCH.get(given.get("ignore-error", "false").lower())
    if mode not in ("min", "max") or ignore is None:
        raise UsageFault(f"invalid cache {text!r}", hint="mode is min or max, ignore-error true or false")
    if kind == "inline":
        if "ref" in given:
            raise UsageFault(f"invalid cache {text!r}: type=inline is in the image, and has no ref", hint=_TO)
        return CacheTarget("")
    if kind == "local":
        return LocalTarget(_directory(text, given, "dest", _TO), _tag(text, given, LATEST), mode == "max", ignore)
    reference = _reference(text, given.get("ref", ""), _TO)
    if "@" in reference:
        raise UsageFault(f"invalid cache {text!r}: a digest can't be written to", hint=_TO)
    return CacheTarget(reference, mode == "max", ignore)


def _fields(text: str, known: dict[str, tuple[str, ...]], hint: str) -> dict[str, str]:
    given = dict(item.partition("=")[::2] for item in text.split(","))
    if (kind := given.get("type", "registry")) not in known:
        raise UsageFault(f"invalid cache {text!r}: there is no type {kind!r} here", hint=hint)
    for item in text.split(","):
        key, separator, _ = item.partition("=")
        if key not in ("type", *known[kind], *_IDLE) or not separator:
            raise UsageFault(f"invalid cache {text!r}: unknown part {item!r}", hint=hint)
    return given


def _reference(text: str, name: str, hint: str) -> str:
    try:
        if not name:
            raise InvalidArgument("ref=IMAGE is missing")
        return str(Reference.parse(name).with_default_tag())
    except InvalidArgument as error:
        raise UsageFault(f"invalid cache {text!r}: {error}", hint=hint) from error


def _directory(text: str, given: dict[str, str], key: str, hint: str) -> str:
    path = given.get(key, "")
    if not path or "\0" in path:
        raise UsageFault(f"invalid cache {text!r}: {key}=DIRECTORY is missing", hint=hint)
    return path


def _tag(text: str, given: dict[str, str], default: str) -> str:
    tag = given.get("tag", default)
    if "tag" in given and not _TAG(tag):
        raise UsageFault(f"invalid cache {text!r}: {tag!r} is no tag", hint="letters, digits and _ . -, at most 128")
    return tag


def _digest(text: str) -> str:
    if text and not text.startswith("sha256:"):
        raise InvalidArgument(f"{text!r} is no sha256:HEX")
    return str(Digest.parse(text)) if text else ""
