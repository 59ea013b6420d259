"""The package database of rpm: the headers in the table `Packages` of rpmdb.sqlite (rpm's manual, "Header format")."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from shoald.attest.distribution import Distribution
from shoald.attest.package import Damaged, Package, PackageType
from shoald.attest.plain import decoded, plain
from shoald.attest.sqlitefile import ReadAt, table_rows

PATHS = ("var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite")
OLD_PATHS = ("var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/Packages.db")
"""Databases of the formats before SQLite, which are not read."""

_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR, _LICENCE, _PACKAGER, _URL, _ARCH, _SOURCE = (
    1000, 1001, 1002, 1003, 1011, 1014, 1015, 1020, 1022, 1044
)  # fmt: skip
_INT32, _STRING, _STRINGS, _TRANSLATED = 4, 6, 8, 9
_WANTED = frozenset({_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR, _LICENCE, _PACKAGER, _URL, _ARCH, _SOURCE})
_KEY = "gpg-pubkey"
"""What keys that packages are signed with are stored as."""
_NONE = "(none)"


def parse_rpm(read_at: ReadAt, location: str, distribution: Distribution) -> Iterator[Package]:
    """All packages. Raises Damaged, also between packages."""
    for row in table_rows(read_at, "Packages"):
        header = row[1] if len(row) > 1 else None
        if not isinstance(header, bytes):
            raise Damaged("a row of Packages has no header")
        tags = read_header(header)
        if tags.get(_NAME, _KEY) != _KEY and tags.get(_VERSION):
            yield _package(tags, location, distribution)


def read_header(header: bytes) -> dict[int, str]:
    """The tags that matter, as text. Raises Damaged."""
    if len(header) < 8:
        raise Damaged("a header is cut off")
    count, size = struct.unpack_from(">II", header)
    store = 8 + 16 * count
    if store + size > len(header):
        raise Damaged("a header is cut off")
    tags: dict[int, str] = {}
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", header, 8 + 16 * number)
        if tag not in _WANTED or tag in tags:
            continue
        if offset >= size:
            raise Damaged("a header's entry leaves it")
        at = store + offset
        if kind in (_STRING, _STRINGS, _TRANSLATED):
            end = header.find(b"\0", at, store + size)
            tags[tag] = plain(decoded(header[at : end if end >= 0 else store + size][:4096]))
        elif kind == _INT32 and offset + 4 <= size:
            tags[tag] = str(struct.unpack_from(">I", header, at)[0])
    return {tag: value for tag, value in tags.items() if value != _NONE}


def _package(tags: dict[int, str], location: str, distribution: Distribution) -> Package:
    release, epoch, source = tags.get(_RELEASE, ""), tags.get(_EPOCH, ""), tags.get(_SOURCE, "")
    return Package(
        type=PackageType.RPM,
        namespace=distribution.vendor,
        name=tags[_NAME],
        version=f"{tags[_VERSION]}-{release}" if release else tags[_VERSION],
        qualifiers={
            "arch": tags.get(_ARCH, ""),
            "distro": distribution.qualifier,
            "epoch": epoch if epoch != "0" else "",
            "upstream": source,
        },
        architecture=tags.get(_ARCH, ""),
        licence=tags.get(_LICENCE, ""),
        supplier=tags.get(_PACKAGER) or tags.get(_VENDOR, ""),
        source=source,
        homepage=tags.get(_URL, ""),
        location=location,
    )
