"""Digests: the OCI image-spec's rules, and nothing that could become a path."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.digest import Digest, new_hasher
from shoal.errors import InvalidArgument

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_parts() -> None:
    digest = Digest.parse(f"sha256:{EMPTY}")
    assert (digest.algorithm, digest.hex, digest.short, str(digest)) == ("sha256", EMPTY, EMPTY[:12], f"sha256:{EMPTY}")
    assert digest == Digest.of(b"") == Digest.from_hasher(digest.new_hasher())
    assert len({digest, Digest.of(b""), Digest.of(b"x")}) == 2


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_round_trip(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert Digest.parse(str(digest)) == digest


def test_hasher_in_pieces() -> None:
    hasher = new_hasher("sha512")
    hasher.update(b"ab")
    hasher.update(memoryview(b"c"))
    assert Digest.from_hasher(hasher, "sha512") == Digest.of(b"abc", "sha512")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "format"),
        (EMPTY, "format"),
        ("sha256", "format"),
        ("sha256:", "length"),
        (":" + EMPTY, "unsupported"),
        ("SHA256:" + EMPTY, "unsupported"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "unsupported"),
        ("sha384:" + "0" * 96, "unsupported"),
        ("sha512:" + EMPTY, "length"),
        ("sha256:" + EMPTY[:-1], "length"),
        ("sha256:" + EMPTY + "0", "length"),
        ("sha256:" + EMPTY.upper(), "format"),
        ("sha256:" + EMPTY[:-1] + "g", "format"),
        ("sha256:" + EMPTY[:-1] + "\n", "format"),
        ("sha256:" + EMPTY + "\n", "length"),
        (" sha256:" + EMPTY, "unsupported"),
        ("sha256:" + "../" * 21 + "x", "format"),
        ("sha256:" + "٠" * 64, "format"),
        ("../sha256:" + EMPTY, "unsupported"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        Digest.parse(text)
    assert caught.value.reason == "INVALID_DIGEST"
    assert caught.value.hint


def test_construction_is_checked_too() -> None:
    with pytest.raises(InvalidArgument):
        Digest("sha256", "../../etc/passwd")
    with pytest.raises(InvalidArgument):
        new_hasher("md5")


@given(st.text(max_size=200))
def test_whatever_parses_is_safe_and_stable(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except InvalidArgument:
        return
    assert str(digest) == text
    assert "/" not in text
