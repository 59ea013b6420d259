"""`.dockerignore` rules: Docker's documented cases, the port of moby's matcher as an oracle, and hostile patterns."""

from __future__ import annotations

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.ignore import Matcher


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*/temp*", "somedir/temporary.txt", True),
        ("*/temp*", "temporary.txt", False),
        ("*/temp*", "a/b/temp", False),
        ("*/*/temp*", "somedir/subdir/temporary.txt", True),
        ("temp?", "tempa", True),
        ("temp?", "temp", False),
        ("**/*.go", "a/b/c.go", True),
        ("**/*.go", "c.go", True),
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
        ("node_modules", "node_modules/x/y.js", True),
        ("node_modules", "a/node_modules", False),
        ("/build", "build/x", True),
        ("build/", "build", True),
        ("dir\n!dir/keep", "dir/keep", False),
        ("dir\n!dir/keep", "dir/other", True),
        ("*\n!src", "src/a.c", False),
        ("# comment\n\n  a  ", "a", True),
        ("\\#x", "#x", True),
        ("a/../b", "b", True),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("**", "any/thing", True),
        ("a**", "abc/d", True),
        ("**/x/**/y", "p/x/q/r/y", True),
        ("**/a*b*c*d", "z/a1b2c3d", True),
        ("**/a*b*c*d", "z/a1b2c/3d", False),
        (".git", ".gitignore", False),
        ("\ufeff*.o", "a.o", True),
        ("a\r\nb", "a", True),
    ],
)
def test_cases(patterns: str, path: str, excluded: bool) -> None:
    assert Matcher.parse(patterns).excluded(path) is excluded


def test_walks_into_excluded_directories_only_for_exceptions() -> None:
    rules = Matcher.parse("vendor\ndist\n!vendor/keep/me\n!**/special\n")
    assert rules.may_descend("src")
    assert rules.may_descend("vendor")
    assert rules.has_exceptions
    assert not Matcher.parse("vendor").may_descend("vendor")
    assert not Matcher.parse("vendor\n!other/x").may_descend("vendor")
    assert not Matcher.parse("")
    assert not Matcher.parse("").excluded("a")


@pytest.mark.parametrize("pattern", ["[", "[a", "[]", "[a-]", "a\\", "!", "[z-a]", "x" * 5000])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Matcher.parse(pattern)
    assert caught.value.reason == "DOCKERIGNORE_SYNTAX"


def test_backslash_separates_on_windows() -> None:
    assert Matcher.parse("dir\\sub", windows=True).excluded("dir/sub/x")
    assert not Matcher.parse("dir\\sub").excluded("dir/sub/x")


def test_pattern_with_many_wildcards_is_quick() -> None:
    rules = Matcher(["**/" + "*a" * 40 + "b", "**/x" * 40])
    path = "/".join(["a" * 200] * 20)
    assert not rules.excluded(path)
    assert rules.excluded("x/" * 39 + "x")


# Without escapes inside of brackets: the port hands `[\\b]` to `re`, where it is a backspace.
_PATTERN = st.text(alphabet="ab/*?!.[]^-\\", min_size=1, max_size=8).filter(lambda p: not {"[", "\\"} <= set(p))
_PATH = st.lists(st.text(alphabet="ab.", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@settings(max_examples=1500, deadline=None)
@given(st.lists(_PATTERN, min_size=1, max_size=4), st.lists(_PATH, min_size=1, max_size=4))
def test_agrees_with_the_port_of_moby(patterns: list[str], paths: list[str]) -> None:
    try:
        reference = PatternMatcher(patterns)
    except (ValueError, FutureWarning):
        return
    try:
        rules = Matcher(patterns)
    except InvalidArgument:
        pytest.fail(f"{patterns} is refused")
    assert list(rules.patterns) == reference.patterns
    for path in paths:
        assert rules.excluded(path) == reference.matches(path), path
        if reference.matches(path):
            assert rules.may_descend(path) == reference.may_match_under(path)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), _PATH)
def test_only_ever_invalid_argument(text: str, path: str) -> None:
    try:
        Matcher.parse(text).excluded(path)
    except InvalidArgument:
        pass
