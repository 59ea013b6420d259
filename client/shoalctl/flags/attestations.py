"""`build --sbom`, `--provenance` and `--attest`: what is said of the image beside it, in buildx's syntax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from shoalctl.flags.fault import UsageFault

_TRUE = frozenset({"true", "t", "1", "TRUE", "True", "T"})
_FALSE = frozenset({"false", "f", "0", "FALSE", "False", "F"})
_IDLE = ("inline-only", "filename")
"""Keys of buildx that make no difference here."""
_HINT = {
    "sbom": "write --sbom, or --attest type=sbom",
    "provenance": "write --provenance, --provenance=mode=max,version=v1, or --attest type=provenance,mode=max",
}
_UNKNOWN = "write --attest type=sbom, or --attest type=provenance[,mode=min|max][,version=v0.2|v1]"


class Provenance(NamedTuple):
    """How much is told of a build (`mode` min or max), in which version of SLSA's predicate (v0.2 or v1).

    `builder_id` is a URI that says who built, or ""; `reproducible` what the caller claims of the result.
    """

    mode: str = "min"
    version: str = "v0.2"
    builder_id: str = ""
    reproducible: bool = False


class Attestations(NamedTuple):
    """What is wanted. None: not said; `provenance` False: said to be left out."""

    sbom: bool | None = None
    provenance: Provenance | Literal[False] | None = None


def with_switches(arguments: Sequence[str]) -> list[str]:
    """Command line arguments with a value for each `--sbom` and `--provenance` that has none."""
    found = list(arguments)
    end = found.index("--") if "--" in found else len(found)
    for at in range(end - 1, -1, -1):
        if found[at] in ("--sbom", "--provenance"):
            following = found[at + 1] if at + 1 < end else ""
            fields = "=" in following.partition(",")[0] and not following.startswith("-")
            value = following in _TRUE or following in _FALSE or fields
            found[at : at + 1 + value] = [f"{found[at]}={following if value else 'true'}"]
    return found


def parse_attestations(
    attest: Sequence[str] = (), sbom: str | None = None, provenance: str | None = None
) -> Attestations:
    """`--attest` (any number of times), `--sbom` and `--provenance`; the last two are short for one of the first each,
    a plain switch being "true". One type can be given once. Raises UsageFault."""
    given: dict[str, dict[str, str]] = {}
    for option, kind, text in [
        *(("--attest", "", text) for text in attest),
        *(("--sbom", "sbom", text) for text in [sbom] if text),
        *(("--provenance", "provenance", text) for text in [provenance] if text),
    ]:
        shown = f"{option} {text!r}"
        fields = _switch(text) if kind and (text in _TRUE or text in _FALSE) else _fields(shown, text, kind)
        kind = kind or fields.pop("type", "")
        if kind not in _HINT:
            raise UsageFault(f"invalid {shown}: there is no type {kind!r}", hint=_UNKNOWN)
        if kind in given:
            raise UsageFault(f"invalid {shown}: type={kind} is given twice", hint=_HINT[kind])
        given[kind] = fields
    return Attestations(
        _sbom(given["sbom"]) if "sbom" in given else None,
        _provenance(given["provenance"]) if "provenance" in given else None,
    )


def _switch(text: str) -> dict[str, str]:
    return {"disabled": "false" if text in _TRUE else "true"}


def _fields(shown: str, text: str, kind: str) -> dict[str, str]:
    hint = _HINT.get(kind, _UNKNOWN)
    fields: dict[str, str] = {}
    for item in text.split(","):
        key, separator, value = item.partition("=")
        key = key.strip().lower()
        if not separator or not key or (kind and key == "type"):
            raise UsageFault(f"invalid {shown}: unknown part {item!r}", hint=hint)
        if key in fields:
            raise UsageFault(f"invalid {shown}: {key} is given twice", hint=hint)
        fields[key] = value
    return fields


def _sbom(fields: dict[str, str]) -> bool:
    if "generator" in fields:
        raise UsageFault(
            "an SBOM has no generator here: the host reads the image's package databases itself",
            hint="leave generator= out",
        )
    wanted = not _truth("sbom", fields, "disabled")
    _no_more("sbom", fields)
    return wanted


def _provenance(fields: dict[str, str]) -> Provenance | Literal[False]:
    mode, version = fields.pop("mode", "min"), fields.pop("version", "v0.2")
    if mode not in ("min", "max"):
        raise UsageFault(f"invalid mode {mode!r} of a provenance: min or max", hint=_HINT["provenance"])
    if version not in ("v0.2", "v1"):
        raise UsageFault(f"invalid version {version!r} of a provenance: v0.2 or v1", hint=_HINT["provenance"])
    builder_id = fields.pop("builder-id", "")
    disabled = _truth("provenance", fields, "disabled")
    reproducible = _truth("provenance", fields, "reproducible")
    for key in _IDLE:
        fields.pop(key, None)
    _no_more("provenance", fields)
    return False if disabled else Provenance(mode, version, builder_id, reproducible)


def _truth(kind: str, fields: dict[str, str], key: str) -> bool:
    value = fields.pop(key, "false")
    if value not in _TRUE and value not in _FALSE:
        raise UsageFault(f"invalid value {value!r} for {key} of type={kind}: true or false", hint=_HINT[kind])
    return value in _TRUE


def _no_more(kind: str, fields: dict[str, str]) -> None:
    for key in fields:
        raise UsageFault(f"type={kind} has no {key}", hint=_HINT[kind])
