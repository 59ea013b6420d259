"""Content digests: `algorithm:hex`, the names that content-addressed storage gives to bytes.

Follows "Digests" of the OCI image-spec (descriptor.md): only the registered algorithms sha256 and sha512 are accepted,
the encoded part is lower-case hexadecimal of exactly the algorithm's length. Strictness is a safety property here: a
digest becomes a file name, so nothing but hex digits may ever get through.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from shoal.errors import InvalidArgument

HEX_LENGTH = {"sha256": 64, "sha512": 128}
"""Accepted algorithm -> number of hexadecimal digits."""

_HEX = re.compile(r"[0-9a-f]+")
_SHOWN = 160


class Hasher(Protocol):
    """The part of hashlib's objects that digesting needs."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Feed more bytes."""

    def hexdigest(self) -> str:
        """The hash of everything fed so far, as lower-case hex."""


@dataclass(frozen=True, slots=True)
class Digest:
    """One valid digest; `str()` gives `algorithm:hex`. Equal and hashable by value.

    Raises InvalidArgument (reason INVALID_DIGEST) for another algorithm, a wrong length, or a digit beyond 0-9 and a-f.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = HEX_LENGTH.get(self.algorithm)
        if length is None:
            raise _invalid(f"unsupported digest algorithm: {_shown(self.algorithm)}", "use sha256 or sha512")
        if len(self.hex) != length:
            raise _invalid(
                f"invalid checksum digest length: {self.algorithm} has {length} hex digits, not {len(self.hex)}",
                "copy the whole digest; a short form does not name content",
            )
        if not _HEX.fullmatch(self.hex):
            raise _invalid(
                f"invalid checksum digest format: {_shown(self.hex)} is not lower-case hexadecimal",
                "a digest has the digits 0-9 and a-f only",
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `algorithm:hex`. Raises InvalidArgument (reason INVALID_DIGEST)."""
        algorithm, separator, encoded = text.partition(":")
        if not separator:
            raise _invalid(
                f"invalid checksum digest format: {_shown(text)}", "write it as sha256:<64 hexadecimal digits>"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        hasher = new_hasher(algorithm)
        hasher.update(data)
        return cls(algorithm, hasher.hexdigest())

    @classmethod
    def from_hasher(cls, hasher: Hasher, algorithm: str = "sha256") -> Digest:
        """The digest of what was fed to a hasher that `new_hasher(algorithm)` made."""
        return cls(algorithm, hasher.hexdigest())

    def new_hasher(self) -> Hasher:
        """A fresh hasher of this digest's algorithm, to verify content against it."""
        return new_hasher(self.algorithm)

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def new_hasher(algorithm: str = "sha256") -> Hasher:
    """A fresh hasher. Raises InvalidArgument (reason INVALID_DIGEST) for an algorithm that is not accepted."""
    if algorithm not in HEX_LENGTH:
        raise _invalid(f"unsupported digest algorithm: {_shown(algorithm)}", "use sha256 or sha512")
    return hashlib.new(algorithm, usedforsecurity=True)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _invalid(message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, reason="INVALID_DIGEST", hint=hint)
