"""Alpine's package database, `installed`: paragraphs of lines with one letter, a colon and a value (apk-tools)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

from shoald.attest.distribution import Distribution
from shoald.attest.package import Package, PackageType
from shoald.attest.plain import decoded, plain
from shoald.attest.stanzas import MAX_LINE

PATHS = ("lib/apk/db/installed", "usr/lib/apk/db/installed")

_FIELDS = frozenset(b"PVALmoU")


def parse_apk(body: bytes, location: str, distribution: Distribution) -> Iterator[Package]:
    """All packages of the database: what is in it is installed."""
    found: dict[str, str] = {}
    for line in io.BytesIO(body):
        if not line.strip():
            if found.get("P") and found.get("V"):
                yield _package(found, location, distribution)
            found = {}
        elif line[1:2] == b":" and line[0] in _FIELDS:  # case matters: `p` and `P` are different things
            found.setdefault(chr(line[0]), plain(decoded(line[2:MAX_LINE])))
    if found.get("P") and found.get("V"):
        yield _package(found, location, distribution)


def _package(found: Mapping[str, str], location: str, distribution: Distribution) -> Package:
    origin = found.get("o", "")
    return Package(
        type=PackageType.APK,
        namespace=distribution.vendor or "alpine",
        name=found["P"],
        version=found["V"],
        qualifiers={
            "arch": found.get("A", ""),
            "distro": distribution.qualifier,
            "upstream": "" if origin == found["P"] else origin,
        },
        architecture=found.get("A", ""),
        licence=found.get("L", ""),
        supplier=found.get("m", ""),
        source=origin,
        homepage=found.get("U", ""),
        location=location,
    )
