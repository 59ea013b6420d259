"""`--detach-keys`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoalctl.flags.detach_keys import DEFAULT, KeyWatch, parse_detach_keys
from shoalctl.flags.fault import UsageFault


@pytest.mark.parametrize(
    ("text", "keys"),
    [(DEFAULT, b"\x10\x11"), ("ctrl-@", b"\0"), ("a,ctrl-[", b"a\x1b"), ("", b""), ("ctrl-_", b"\x1f")],
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "pp", "ctrl-P", ",", "ctrl-p,", "é"])
def test_unknown_keys_are_refused(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_detach_keys(text)


@given(st.lists(st.binary(max_size=4), max_size=20))
def test_what_is_no_key_passes_unchanged_however_it_is_cut(pieces: list[bytes]) -> None:
    watch = KeyWatch(b"\x10\x11")
    given_, passed, left = b"".join(pieces), b"", False
    for piece in pieces:
        if not left:
            data, left = watch.feed(piece)
            passed += data
    before, keys, _ = given_.partition(b"\x10\x11")
    assert left == bool(keys)
    assert before.startswith(passed)
    assert len(before) - len(passed) <= (0 if left else 1)
