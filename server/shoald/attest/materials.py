"""What a build was made from, each with the digest that it had."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from shoal.digest import Digest
from shoal.platform import Platform
from shoald.attest.purl import image_url

_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#\s]*@")


class Material(Struct, frozen=True):
    """A source by its URI. `algorithm` and `hex` are of its digest, "" when it is not known."""

    uri: str
    algorithm: str = ""
    hex: str = ""

    def document(self) -> dict[str, Any]:
        """As predicates have it."""
        return {"uri": self.uri, "digest": {self.algorithm: self.hex}} if self.hex else {"uri": self.uri}


def image_material(reference: str, digest: Digest, platform: Platform | None = None) -> Material:
    """An image that a stage starts or copies from: its reference as it is written, the digest of what it resolved to
    (the manifest, or the index that it came by). Raises InvalidArgument (INVALID_REFERENCE)."""
    return Material(image_url(reference, platform), digest.algorithm, digest.hex)


def git_material(url: str, commit: str) -> Material:
    """A repository, with `#ref`; a login in the URL is hidden. `commit` in hex: SHA-1, or SHA-256 if it is longer."""
    return Material(without_login(url), "sha256" if len(commit) == 64 else "sha1", commit)


def http_material(url: str, digest: Digest) -> Material:
    """A file that ADD fetched; a login in the URL is hidden."""
    return Material(without_login(url), digest.algorithm, digest.hex)


def context_material(name: str, digest: Digest) -> Material:
    """Files of the client: the digest of their manifest, by which a host knows them. `name` is "context" for the
    main one."""
    return Material(f"urn:shoal:context:{name}", digest.algorithm, digest.hex)


def without_login(text: str) -> str:
    """The text with the user and password of each URL in it replaced by "xxxxx"."""
    return _LOGIN.sub(r"\1xxxxx@", text)
