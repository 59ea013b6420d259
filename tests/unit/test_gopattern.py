"""Go's path.Match."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.gopattern import pattern_regex


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("*", ".hidden", True),
        ("**", "x", True),
        ("a*", "abc", True),
        ("*c", "abc", True),
        ("a*b*c", "aXXbYYc", True),
        ("a*b*c", "abbc", True),
        ("*ab", "abab", True),
        ("a*a", "a", False),
        ("?", "ä", True),
        ("?", "", False),
        ("[a-z]", "m", True),
        ("[a-z]", "M", False),
        ("[^a-z]", "M", True),
        ("[^a-z]", "m", False),
        ("[!a]", "!", True),
        ("[!a]", "b", False),
        ("[a^]", "^", True),
        ("[\\]]", "]", True),
        ("[\\-a]", "-", True),
        ("[\\d]", "d", True),
        ("[\\d]", "5", False),
        ("[z-a]", "m", False),
        ("[a&&b]", "&", True),
        ("[--a]", "", None),
        ("[]a]", "]", None),
        ("[]", "", None),
        ("[", "", None),
        ("[a", "a", None),
        ("[a-", "a", None),
        ("[a-]", "a", None),
        ("[^]", "^", None),
        ("a\\", "a", None),
        ("\\*", "*", True),
        ("\\*", "x", False),
        ("\\a", "a", True),
        ("a.b", "axb", False),
        ("*\n*", "a\nb", True),
        ("*", "\udcff", True),
        ("*", "a/b", False),
        ("*/*", "a/b", True),
        ("*/*", "a/b/c", False),
        ("a*/b", "a/x/b", False),
        ("*/*:1.?", "library/app:1.2", True),
        ("?", "/", False),
        ("a[^b]c", "a/c", True),
    ],
)
def test_go_patterns(pattern: str, name: str, matches: bool | None) -> None:
    if matches is None:
        with pytest.raises(InvalidArgument, match="syntax error in pattern"):
            pattern_regex(pattern)
    else:
        assert (pattern_regex(pattern).fullmatch(name) is not None) is matches


@given(st.text("ab*?", max_size=10), st.text("ab", max_size=10))
def test_stars_match_as_elsewhere(pattern: str, name: str) -> None:
    assert (pattern_regex(pattern).fullmatch(name) is not None) is fnmatch.fnmatchcase(name, pattern)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("pattern", ["*a" * 100 + "b", "*?" * 100 + "b", "*[a-b]" * 60 + "c"])
def test_a_hostile_pattern_ends(pattern: str) -> None:
    """Trying every way to spread the name over the stars would take longer than anyone can wait."""
    assert pattern_regex(pattern).fullmatch("a" * 255) is None
