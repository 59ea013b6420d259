"""The licences of a Debian package: its copyright file, where that is machine-readable (Debian's DEP-5)."""

from __future__ import annotations

import re

from shoald.attest.licences import expression
from shoald.attest.stanzas import MAX_VALUES, stanzas

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{0,200}")
_VERSIONED = re.compile(r"(AGPL|GPL|LGPL|GFDL|MPL|Apache|Artistic|CC0)-(\d)(?:\.(\d))?(?:\.\d)?(\+?)", re.IGNORECASE)
_OR_LATER = frozenset({"AGPL", "GPL", "LGPL", "GFDL"})
_NAMES = {"expat": "MIT", "apache-2": "Apache-2.0", "zlib/libpng": "zlib-acknowledgement", "psf": "PSF-2.0"}
"""DEP-5's short names that are SPDX's under another name."""


def copyright_path(package: str) -> str:
    """Where the file of a package is, "" for what is no package's name (Debian policy 5.6.1, 12.5)."""
    return f"usr/share/doc/{package}/copyright" if _NAME.fullmatch(package) else ""


def parse_copyright(body: bytes) -> str:
    """What the License fields name, once each: an SPDX expression if all of them are understood, else the fields as
    they are, between semicolons. "" for a file that is for people only."""
    found: set[str] = set()
    readable = False
    for stanza in stanzas(body, ("format", "license")):
        readable = readable or "format" in stanza
        if not readable:
            return ""
        found |= {each for each in stanza.get("license", []) if each and len(found) < MAX_VALUES}
    terms = {each: _term(each) for each in found}
    if not all(terms.values()):
        return "; ".join(sorted(found))
    parts: set[str] = set()
    for term in terms.values():
        parts |= {term} if " OR " in term else set(term.split(" AND "))
    return " AND ".join(f"({part})" if " OR " in part and len(parts) > 1 else part for part in sorted(parts))


def _term(text: str) -> str:
    """One License field as an expression, or "": a comma changes what binds stronger, which SPDX has no word for."""
    return expression(" ".join(_word(word) for word in text.split()))


def _word(name: str) -> str:
    """GPL-2+ is GPL-2.0-or-later."""
    matched = _VERSIONED.fullmatch(name)
    if matched is None:
        return _NAMES.get(name.lower(), name)
    family, major, minor, later = matched.groups()
    text = f"{family}-{major}.{minor or 0}"
    if family.upper() in _OR_LATER:
        return text + ("-or-later" if later else "-only")
    return text + later
