"""Package URLs (https://github.com/package-url/purl-spec): one name for a package of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from shoal.platform import Platform
from shoal.reference import Reference

_LOWER = frozenset({"deb", "apk", "pypi", "npm"})
"""Types whose names are in lower case."""


def package_url(kind: str, namespace: str, name: str, version: str, qualifiers: Mapping[str, str] | None = None) -> str:
    """The canonical form. An empty namespace, version or qualifier is left out."""
    if kind in _LOWER:
        namespace, name = namespace.lower(), name.lower()
    if kind == "pypi":
        name = name.replace("_", "-")
    parts = [_quoted(part) for part in (kind, *namespace.split("/"), name) if part]
    text = "pkg:" + "/".join(parts)
    if version:
        text += "@" + _quoted(version)
    given = sorted((key.lower(), value) for key, value in (qualifiers or {}).items() if value)
    return text + ("?" + "&".join(f"{key}={_quoted(value)}" for key, value in given) if given else "")


def image_url(reference: str, platform: Platform | None = None) -> str:
    """The URL of an image, as BuildKit writes it: `pkg:docker/alpine@3.17?platform=linux%2Famd64`.

    Names are those that Docker shows; without tag and digest it is `latest`. Raises InvalidArgument
    (INVALID_REFERENCE).
    """
    parsed = Reference.parse(reference).with_default_tag()
    namespace, _, name = parsed.familiar_name.rpartition("/")
    qualifiers = {
        "digest": str(parsed.digest) if parsed.digest is not None else "",
        "platform": str(platform) if platform is not None else "",
    }
    return package_url("docker", namespace, name, parsed.tag or "", qualifiers)


def _quoted(text: str) -> str:
    return quote(text, safe=":", errors="replace")
