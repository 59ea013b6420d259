"""What the command prints: templates, tables, words for times and sizes, marks, source excerpts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shoal.errors import NotFound
from shoalctl.flags.fault import UsageFault
from shoalctl.render.build_log import PlainBuild, printable_output
from shoalctl.render.errors import error_lines
from shoalctl.render.human import duration, size
from shoalctl.render.listing import Column, Listing
from shoalctl.render.marks import MarkedLines
from shoalctl.render.source_excerpt import excerpt
from shoalctl.render.table import table
from shoalctl.render.template import FreeMap, Template

ROW = {
    "ID": "abc",
    "Names": "web",
    "State": {"Status": "running", "Pid": 7, "OOM": False},
    "Tags": ["a", "b"],
    "No": None,
}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{{.ID}}", "abc"),
        ("{{ .ID }}\\t{{.Names}}\\n", "abc\tweb\n"),
        ("{{.State.Status}} {{.State.Pid}}", "running 7"),
        ("{{json .State}}", '{"Status": "running", "Pid": 7, "OOM": false}'),
        ("{{json .}}", '{"ID": "abc", "Names": "web", "State": {"Status": "running", "Pid": 7, "OOM": false},'
         ' "Tags": ["a", "b"], "No": null}'),
        ('{{join .Tags ", "}}', "a, b"),
        ("{{index .Tags 1}} {{index .State \"Pid\"}}", "b 7"),
        ("{{upper .Names}} {{lower .Names}} {{len .Tags}}", "WEB web 2"),
        ("{{.Tags}}|{{.No}}|{{.State.OOM}}", "[a b]||false"),
        ('{{"{{"}} plain', "{{ plain"),
        ("no fields", "no fields"),
        ("{{- .ID -}}", "abc"),
        ("{{println .ID}}", "abc\n"),
    ],
)  # fmt: skip
def test_templates(template: str, wanted: str) -> None:
    assert Template.parse(template).render(ROW) == wanted


@pytest.mark.parametrize(
    "template", ["{{.ID", "{{}}", "{{range .Tags}}", "{{.a..b}}", "{{.ID | upper}}", "}}", "{{foo .ID}}",
     "{{json .ID | upper}}", "{{index .Tags 0 | upper}}", "{{len .ID .Names}}", '{{join .Tags "," "x"}}'],
)  # fmt: skip
def test_templates_that_are_not_understood(template: str) -> None:
    with pytest.raises(UsageFault):
        Template.parse(template)


@pytest.mark.parametrize("template", ["{{len .State.Pid}}", '{{join .State.Pid ","}}', '{{join .ID ","}}'])
def test_functions_of_what_they_do_not_take(template: str) -> None:
    with pytest.raises(UsageFault, match="the format"):
        Template.parse(template).render(ROW)


def test_functions_of_nothing() -> None:
    assert Template.parse('{{len .No}}|{{join .No ","}}|{{len .Names}}').render(ROW) == "0||3"


def test_a_label_that_is_not_there_is_empty() -> None:
    row = {"Labels": FreeMap(a="1"), "Name": "n"}
    assert Template.parse("{{.Labels.a}}|{{.Labels.b}}|{{json .Labels}}").render(row) == '1||{"a": "1"}'


def test_an_unknown_field_names_the_known_ones() -> None:
    with pytest.raises(UsageFault) as caught:
        Template.parse("{{.Nmae}}").render(ROW)
    assert ".Names" in (caught.value.hint or "")


LISTING = (Column("CONTAINER ID", "ID"), Column("NAMES", "Names"))
ROWS = [{"Host": "h1", "ID": "abc", "Names": "web"}, {"Host": "host2", "ID": "d", "Names": "db"}]


def test_listings() -> None:
    assert Listing(LISTING, "ID").lines(ROWS) == ["CONTAINER ID   NAMES", "abc            web", "d              db"]
    assert Listing(LISTING, "ID", several=True).lines(ROWS)[1:] == [
        "h1      abc            web",
        "host2   d              db",
    ]
    assert Listing(LISTING, "ID", quiet=True).lines(ROWS) == ["abc", "d"]
    assert Listing(LISTING, "ID", "json").lines(ROWS[:1]) == ['{"Host": "h1", "ID": "abc", "Names": "web"}']
    assert Listing(LISTING, "ID", "{{.Host}}/{{.ID}}").lines(ROWS) == ["h1/abc", "host2/d"]
    assert Listing(LISTING, "ID", "table {{.Host}}\\t{{.ID}}").lines(ROWS)[0] == "HOST    CONTAINER ID"
    assert Listing(LISTING, "ID").lines([]) == ["CONTAINER ID   NAMES"]


def test_tables_are_wide_as_the_terminal_sees_it_and_take_no_control_codes() -> None:
    assert table(["A", "B"], [["日本", "x"], ["é", "\x1b[2J"]]) == ["A      B", "日本   x", "é      \\x1b[2J"]


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
        (3600, "About an hour"), (3 * 3600, "3 hours"), (47 * 3600, "47 hours"), (49 * 3600, "2 days"),
        (15 * 86400, "2 weeks"), (90 * 86400, "3 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations(seconds: int, wanted: str) -> None:
    assert duration(timedelta(seconds=seconds)) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_240_000, "1.24MB"),
        (999_999, "1MB"),
        (72_900_000, "72.9MB"),
        (5e12, "5TB"),
    ],
)
def test_sizes(count: float, wanted: str) -> None:
    assert size(count) == wanted


def test_errors_name_the_host_and_the_remedy() -> None:
    error = NotFound("no such image: x\nsecond", hint="pull it")
    assert error_lines(error, "web1") == ["shoal: web1: no such image: x", "  second", "  hint: pull it"]
    assert error_lines(NotFound("a\x1b[31mb")) == ["shoal: a\\x1b[31mb"]


def test_an_excerpt_marks_its_lines_and_has_a_caret() -> None:
    text = "FROM x\n\nRUN a \\\n  && b\nCOPY . .\nCMD c\n"
    assert excerpt("Dockerfile", text, 3, 4) == [
        "Dockerfile:3",
        "--------------------",
        "   1 |     FROM x",
        "   2 |",
        "   3 | >>> RUN a \\",
        "   4 | >>>   && b",
        "             ^^^^",
        "   5 |     COPY . .",
        "   6 |     CMD c",
        "--------------------",
    ]
    assert excerpt("Dockerfile", text, 99, 99) == []
    assert excerpt("Dockerfile", "  RUN x", 1, 1)[-2] == " " * 13 + "^" * 5


def test_marked_lines_never_mix_two_hosts(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    marks = MarkedLines(["a", "long"])
    marks.update("a", b"one\ntw")
    marks.update("long", b"x\n")
    marks.update("a", b"o\n")
    marks.update("long", b"err", error=True)
    marks.close()
    out, err = capsysbinary.readouterr()
    assert out == b"a    | one\nlong | x\na    | two\n"
    assert err == b"long | err\n"


def test_one_host_passes_bytes_unchanged(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    MarkedLines(["a"]).update("a", b"\xff\x00 no newline")
    assert capsysbinary.readouterr().out == b"\xff\x00 no newline"


def test_build_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainBuild(["a", "bb"])
    view.started("a", "s1", "[build 1/2] RUN x", 10.0)
    view.output("a", "s1", b"50%\r100%\npart", 10.5, error=False)
    view.output("a", "s1", b"ial\n", 10.6, error=False)
    view.finished("a", "s1", 11.25, cached=False, error="")
    view.started("bb", "s1", "[build 1/2] RUN x", 10.0)
    view.finished("bb", "s1", 10.0, cached=True, error="")
    assert capsys.readouterr().err.splitlines() == [
        "a  | #1 [build 1/2] RUN x",
        "a  | #1 0.500 100%",
        "a  | #1 0.600 partial",
        "a  | #1 DONE 1.2s",
        "bb | #1 [build 1/2] RUN x",
        "bb | #1 CACHED",
    ]


def test_build_output_can_not_drive_the_terminal() -> None:
    assert printable_output(b"\x1b[31mred\x1b[0m \x07bell") == "red \\x07bell"
