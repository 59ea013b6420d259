"""Python distributions: METADATA of dist-info and PKG-INFO of egg-info (PyPA's core metadata)."""

from __future__ import annotations

from shoald.attest.licences import expression
from shoald.attest.package import Damaged, Package, PackageType
from shoald.attest.plain import plain
from shoald.attest.stanzas import Stanza, first, stanzas

_FIELDS = frozenset(
    {"name", "version", "license", "license-expression", "classifier", "home-page", "project-url"}
    | {"author", "author-email", "maintainer", "maintainer-email"}
)
_UNKNOWN = frozenset({"", "unknown", "none", "n/a"})
_PREFIX = "License :: "
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
}
"""Classifiers that mean one licence."""


def parse_metadata(body: bytes, location: str) -> Package:
    """The distribution that a file describes. Raises Damaged when it has no name or version."""
    stanza = next(stanzas(body, _FIELDS), {})
    name, version = first(stanza, "name"), first(stanza, "version")
    if not name or not version:
        raise Damaged("it has no Name or Version")
    return Package(
        type=PackageType.PYPI,
        name=name,
        version=version,
        licence=_licence(stanza),
        supplier=_person(stanza, "maintainer") or _person(stanza, "author"),
        homepage=_known(first(stanza, "home-page")) or _project_url(stanza),
        location=location,
    )


def _licence(stanza: Stanza) -> str:
    """License-Expression, else License if it is an expression, else what the classifiers say, else License."""
    declared = _known(first(stanza, "license"))
    if given := first(stanza, "license-expression"):
        return given
    if declared and expression(declared):
        return declared
    said = [each.rpartition(" :: ")[2] for each in stanza.get("classifier", []) if each.startswith(_PREFIX)]
    known = [_CLASSIFIERS[each] for each in said if each in _CLASSIFIERS]
    if said and len(known) == len(said):
        return " AND ".join(sorted(set(known)))
    return plain(declared or "; ".join(each for each in said if each != "OSI Approved"))


def _person(stanza: Stanza, who: str) -> str:
    name, email = _known(first(stanza, who)), _known(first(stanza, f"{who}-email"))
    if not name or "<" in email:
        return email or name
    return f"{name} <{email}>" if email else name


def _project_url(stanza: Stanza) -> str:
    """Project-URL: "label, URL"; the one that is labelled as the home page."""
    for each in stanza.get("project-url", []):
        label, _, url = each.partition(",")
        if label.strip().lower().replace("-", "").replace(" ", "") in ("homepage", "home"):
            return url.strip()
    return ""


def _known(text: str) -> str:
    return "" if text.lower() in _UNKNOWN else text
