"""Which distribution an image is of: os-release(5)."""

from __future__ import annotations

import re

from msgspec import Struct

from shoald.attest.plain import decoded, plain

PATHS = ("etc/os-release", "usr/lib/os-release")
"""In the order in which they count."""

_LINE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VENDORS = {"rhel": "redhat", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse"}


class Distribution(Struct, frozen=True):
    """A distribution; both are "" when the image does not say. `id` is in lower case ("debian"), `version` "12"."""

    id: str = ""
    version: str = ""

    @property
    def vendor(self) -> str:
        """The namespace of its packages in purls."""
        return _VENDORS.get(self.id, self.id)

    @property
    def qualifier(self) -> str:
        """The qualifier `distro` of purls: "debian-12"."""
        return f"{self.id}-{self.version}" if self.id and self.version else self.id

    def __str__(self) -> str:
        return f"{self.id} {self.version}".strip()


def parse_os_release(body: bytes) -> Distribution:
    """Read ID and VERSION_ID; what is no plain word counts as not said."""
    found: dict[str, str] = {}
    for line in decoded(body).splitlines():
        matched = _LINE.fullmatch(line.strip())
        if matched is not None:
            found[matched[1]] = _unquoted(matched[2])
    name, version = found.get("ID", "").lower(), found.get("VERSION_ID", "").lower()
    return Distribution(name if _WORD.fullmatch(name) else "", version if _WORD.fullmatch(version) else "")


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return plain(re.sub(r"\\(.)", r"\1", text))
