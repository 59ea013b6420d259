"""Checks that every parsed document goes through."""

from __future__ import annotations

from shoal.digest import Digest
from shoal.errors import InvalidArgument


def check_digest(text: str, what: str, reason: str) -> None:
    """Raise InvalidArgument with `reason` unless `text` is a digest in its canonical form."""
    try:
        Digest.parse(text)
    except InvalidArgument as e:
        raise InvalidArgument(f"bad {what}: {e}", reason=reason) from e
