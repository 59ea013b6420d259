"""Node packages: package.json of each directory in node_modules (https://docs.npmjs.com, package.json)."""

from __future__ import annotations

import codecs
import re
from typing import Any

import msgspec

from shoald.attest.package import Damaged, Package, PackageType
from shoald.attest.plain import plain

_NAME = re.compile(r"(?:@([^/@\s]+)/)?([^/@\s]+)")


def parse_package_json(body: bytes, location: str) -> Package:
    """The package that a file describes. Raises Damaged when it has no name or version, or is no JSON object."""
    try:
        document = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged("it is not JSON") from error
    if not isinstance(document, dict):
        raise Damaged("it is not a JSON object")
    matched = _NAME.fullmatch(_text(document.get("name")))
    version = _text(document.get("version"))
    if matched is None or not version:
        raise Damaged("it has no name or version")
    return Package(
        type=PackageType.NPM,
        namespace=f"@{matched[1]}" if matched[1] else "",
        name=matched[2],
        version=version,
        licence=_licence(document),
        supplier=_person(document.get("author")),
        homepage=_text(document.get("homepage")),
        location=location,
    )


def _licence(document: dict[str, Any]) -> str:
    """`license` is an expression, or an object in old packages; older ones have a list of objects, to choose from."""
    declared = document.get("license") or document.get("licenses")
    names = [_type(each) for each in (declared if isinstance(declared, list) else [declared])[:20]]
    return plain(" OR ".join(name for name in names if name))


def _type(value: Any) -> str:
    return _text(value.get("type")) if isinstance(value, dict) else _text(value)


def _person(value: Any) -> str:
    """`name <email> (url)`, or an object of these."""
    if not isinstance(value, dict):
        return _text(value).partition(" (")[0]
    name, email = _text(value.get("name")), _text(value.get("email"))
    return f"{name} <{email}>" if name and email else name or email


def _text(value: Any) -> str:
    return plain(value) if isinstance(value, str) else ""
