"""docs/dockerfile.md is true, as far as it can be seen without a build, and nothing is missing from it."""

from __future__ import annotations

import inspect
import os
import re

import pytest

from shoald.dockerfile import checks, graph, parse, stages, state, transition
from shoald.dockerfile.mounts import SHARING, TYPES
from shoald.dockerfile.source import KEYWORDS
from tests.support.dockerfile_table import PAGE, Case, Row, looked_up, page, rows, sections

_HEADINGS = """
format parser-directives syntax escape check environment-replacement dockerignore-file shell-and-exec-form exec-form
variable-substitution backslashes shell-form use-a-different-shell from understand-how-arg-and-from-interact run
cache-invalidation-for-run-instructions run---device run---mount run---mounttypebind run---mounttypecache
run---mounttypetmpfs run---mounttypesecret run---mounttypessh run---network run---networkdefault run---networknone
run---networkhost run---security cmd label maintainer-deprecated expose env add source
adding-files-from-the-build-context pattern-matching adding-local-tar-archives adding-files-from-a-url
adding-files-from-a-git-repository destination add---keep-git-dir add---checksum add---chmod add---chown add---link
add---unpack add---exclude copy copying-from-the-build-context copy---from copy---chmod copy---chown copy---link
copy---parents copy---exclude entrypoint exec-form-entrypoint-example shell-form-entrypoint-example
understand-how-cmd-and-entrypoint-interact volume notes-about-specifying-volumes user workdir arg default-values
scope using-arg-variables predefined-args automatic-platform-args-in-the-global-scope buildkit-built-in-build-args
impact-on-build-caching onbuild copy-or-mount-from-stage-image-or-context onbuild-limitations stopsignal healthcheck
shell here-documents example-running-a-multi-line-script example-creating-inline-files
"""
HEADINGS = frozenset(_HEADINGS.split())
"""Of Docker's reference, as their addresses."""


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_a_row_is_true(row: Row) -> None:
    assert list(row.lies()) == []
    assert row.state == "supported" or row.note.partition(": ")[2], "and why?"


def test_the_page_is_what_is_generated() -> None:
    if os.environ.get("SHOAL_UPDATE_GOLDEN"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "SHOAL_UPDATE_GOLDEN=1 writes it"


def test_each_heading_of_the_reference_is_covered() -> None:
    assert {anchor for section in sections() for anchor in section.anchors} == HEADINGS


def test_forms_are_named_once() -> None:
    ids = [row.id for row in rows()]
    assert len(set(ids)) == len(ids)


def _forms(title: str) -> str:
    return "\n".join(row.form for section in sections() if section.title.startswith(title) for row in section.rows)


def test_all_that_the_parser_knows_is_on_the_page() -> None:
    everything = "\n".join(row.form for row in rows())
    assert {word for word in KEYWORDS if not re.search(rf"\b{word}\b", everything)} == set()
    for title, function in (("RUN --device", parse._run), ("ADD", parse._add), ("COPY", parse._copy)):
        names = {*re.findall(r'flags\.(?:text|on|all|maybe)\("([a-z-]+)"', inspect.getsource(function))} - {"mount"}
        assert len(names) >= 3
        assert {name for name in names if f"--{name}" not in _forms(title)} == set()
    mounts = _forms("RUN --mount")
    assert {kind for kind in TYPES if f"{kind}: " not in mounts} == set()
    assert {value for value in SHARING if f"sharing={value}" not in mounts} == set()


def test_all_checks_are_on_the_page() -> None:
    source = "".join(map(inspect.getsource, (checks, graph, stages, state, transition)))
    names = set(re.findall(r'finding\(\s*"([A-Za-z]+)"', source))
    assert len(names) >= 20
    assert names - {row.form for row in rows()} == set()


def test_lies_are_found() -> None:
    """The check itself can fail, in each of its ways."""
    for case in (
        Case("FROM base\nRUN a"),
        Case("FROM base\nRUN a", see={"step.argv.2": "b"}),
        Case("FROM base\nRUN a", see={"step.argv~": "zz"}),
        Case("FROM base\nRUN a", error="x"),
        Case("FROM base\nRUNS a", see={"step": {}}),
    ):
        assert list(case.lies()), case
    for table in ({}, {"elsewhere": "tests/unit/test_layout.py::test_none"}, {"oops": ""}):
        assert list(Row("", "", "", "", (), table).lies()), table
    ignore = {"ignore": "a", "left": ["b"], "kept": ["a"]}
    assert len(list(Row("", "", "", "", (), ignore).lies())) == 2
    assert looked_up({}, "config.Env.0") == "(none)"
