"""Debian's package database: /var/lib/dpkg/status, and a file for each package in status.d of images without dpkg."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shoald.attest.distribution import Distribution
from shoald.attest.package import Package, PackageType
from shoald.attest.stanzas import Stanza, first, stanzas

STATUS = "var/lib/dpkg/status"
STATUS_DIRECTORY = "var/lib/dpkg/status.d"

_FIELDS = frozenset({"package", "version", "architecture", "status", "maintainer", "source", "homepage"})
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


def parse_dpkg(body: bytes, location: str, distribution: Distribution) -> Iterator[Package]:
    """The installed packages (dpkg(1): whose status is "installed"; without one it is a file of status.d)."""
    for stanza in stanzas(body, _FIELDS):
        status = first(stanza, "status")
        if "status" in stanza and status.split()[-1:] != ["installed"]:
            continue
        if first(stanza, "package") and first(stanza, "version"):
            yield _package(stanza, location, distribution)


def _package(stanza: Stanza, location: str, distribution: Distribution) -> Package:
    name, version = first(stanza, "package"), first(stanza, "version")
    architecture = first(stanza, "architecture")
    source, source_version = name, version
    if (matched := _SOURCE.fullmatch(first(stanza, "source"))) is not None:
        source, source_version = matched[1], matched[2] or version
    same = source_version == version
    upstream = source if same else f"{source}@{source_version}"
    return Package(
        type=PackageType.DEB,
        namespace=distribution.vendor or "debian",
        name=name,
        version=version,
        qualifiers={
            "arch": architecture,
            "distro": distribution.qualifier,
            "upstream": "" if upstream == name else upstream,
        },
        architecture=architecture,
        supplier=first(stanza, "maintainer"),
        source=source if same else f"{source} {source_version}",
        homepage=first(stanza, "homepage"),
        location=location,
    )
