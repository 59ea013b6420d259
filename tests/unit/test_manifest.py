"""The manifest of a build's context: what is written is read again, and what can't be is refused."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import manifest
from shoal.errors import InvalidArgument
from shoal.manifest import HEADER, Entry, encoded, line, parsed

DIGEST = "0123456789abcdef" * 4
OTHER = "f" * 64
FILE = f"type=file mode=0644 time=1.0 size=3 sha256digest={DIGEST}"
DIR = "type=dir mode=0755 time=1.0"
LINK = "type=link mode=0777 time=1.0 link=a"
FIFO = "type=fifo mode=0600 time=1.0"

names = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_").decode("utf-8", "surrogateescape"))
    .filter(lambda name: name not in (".", ".."))
)
targets = st.binary(min_size=1, max_size=60).map(
    lambda raw: raw.replace(b"\0", b"_").decode("utf-8", "surrogateescape")
)
modes = st.integers(0, 0o7777)
times = st.integers(-(2**33), 2**33)
digests = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """Entries of a context, directories before what is in them."""
    entries: dict[str, Entry] = {}
    directories = [""]
    for _ in range(draw(st.integers(0, 12))):
        above, name = draw(st.sampled_from(directories)), draw(names)
        path = f"{above}/{name}" if above else name
        if path in entries:
            continue
        kind = draw(st.sampled_from("fdlp"))
        if kind == "f":
            size, others = draw(st.integers(0, 2**62 - 1)), len(entries)
            # Two with the same number would have to be one file.
            inode = draw(st.sampled_from((0, others + 1, 2**31 - 1 - others)))
            entries[path] = Entry(path, kind, draw(modes), draw(times), size, draw(digests), "", inode)
        elif kind in "dp":
            entries[path] = Entry(path, kind, draw(modes), draw(times))
            directories += [path] if kind == "d" else []
        else:
            entries[path] = Entry(path, kind, draw(modes), draw(times), link=draw(targets))
    return list(entries.values())


def refused(text: str | bytes, why: str | None = None) -> None:
    data = text if isinstance(text, bytes) else HEADER + text.encode("ascii")
    with pytest.raises(InvalidArgument, match=why) as caught:
        parsed(data)
    assert caught.value.reason == "INVALID_MANIFEST"
    assert len(str(caught.value)) < 2000


@given(trees())
def test_what_is_written_is_read_again(entries: list[Entry]) -> None:
    data = encoded(iter(entries))
    assert parsed(data) == entries
    assert data.count(b"\n") == len(entries) + 1, "an entry is a line, whatever its name"
    assert set(data) <= {ord("\n"), *range(32, 127)}
    assert data == HEADER + b"".join(line(entry).encode() for entry in entries)


def test_the_text_of_a_manifest() -> None:
    entries = [
        Entry("a dir", "d", 0o755, 1700000000),
        Entry("a dir/#1\n\\", "f", 0o4640, -1, 5, DIGEST),
        Entry("a dir/one", "f", 0o600, 0, 0, OTHER, "", 1),
        Entry("a dir/two", "f", 0o600, 0, 0, OTHER, "", 1),
        Entry("fifo", "p", 0o620, 3),
        Entry("l=\udcff\xe9", "l", 0o777, 1, link="../x y"),
    ]
    text = (
        "#mtree\n"
        "./a\\040dir type=dir mode=0755 time=1700000000.0\n"
        f"./a\\040dir/\\0431\\012\\134 type=file mode=4640 time=-1.0 size=5 sha256digest={DIGEST}\n"
        f"./a\\040dir/one type=file mode=0600 time=0.0 size=0 sha256digest={OTHER} inode=1\n"
        f"./a\\040dir/two type=file mode=0600 time=0.0 size=0 sha256digest={OTHER} inode=1\n"
        "./fifo type=fifo mode=0620 time=3.0\n"
        "./l=\\377\\303\\251 type=link mode=0777 time=1.0 link=../x\\040y\n"
    )
    assert encoded(iter(entries)).decode("ascii") == text
    assert parsed(text.encode("ascii")) == entries


def test_an_empty_context() -> None:
    assert encoded(iter(())) == HEADER
    assert parsed(HEADER) == []


def test_the_order_of_keywords_does_not_matter() -> None:
    words = FILE.split()
    wanted = [Entry("a", "f", 0o644, 1, 3, DIGEST)]
    assert parsed(HEADER + f"./a {' '.join(words)}\n".encode()) == wanted
    assert parsed(HEADER + f"./a {' '.join(reversed(words))}\n".encode()) == wanted


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"#mtree", b"#MTREE\n", b"#mtree 2\n", b"\xef\xbb\xbf#mtree\n", b" #mtree\n"]
)
def test_no_header(data: bytes) -> None:
    refused(data, "#mtree")


def test_no_final_newline() -> None:
    refused(f"./a {DIR}", "newline")
    refused(f"./a {DIR}\n./b {FILE}", "newline")


@pytest.mark.parametrize("name", ["é".encode(), b"\xff", b"\x80"])
def test_not_ascii(name: bytes) -> None:
    refused(HEADER + b"./" + name + f" {DIR}\n".encode(), "ASCII")


@pytest.mark.parametrize("second", ["./a", "./\\141"])
@pytest.mark.parametrize("kind", [DIR, FILE, LINK])
def test_a_path_that_is_there_twice(second: str, kind: str) -> None:
    refused(f"./a {DIR}\n{second} {kind}\n", "twice")
    refused(f"./a {kind}\n{second} {DIR}\n", "twice")


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../x",
        "a/..",
        "a/../x",
        "/etc",
        "//",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "a\\000b",
        "\\056\\056",
        "a\\057",
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    refused(f"./a {DIR}\n./{path} {FILE}\n")


@pytest.mark.parametrize("name", ["", "a", "/a", "../a", ".", "..", ".a", "#a", "/set", "\\056/a"])
def test_a_name_that_does_not_begin_with_the_root(name: str) -> None:
    refused(f"{name} {FILE}\n", "no entry")


@pytest.mark.parametrize("above", ["", f"./d {FILE}\n", f"./d {LINK}\n", f"./d {FIFO}\n"])
def test_a_directory_that_is_none(above: str) -> None:
    refused(f"{above}./d/f {FILE}\n", "directory")


def test_a_directory_that_comes_late() -> None:
    refused(f"./d/f {FILE}\n./d {DIR}\n", "directory")
    refused(f"./d {DIR}\n./d/e/f {FILE}\n./d/e {DIR}\n", "directory")


@pytest.mark.parametrize(
    "mode",
    ["", "755", "0o755", "07_5", "+755", "8", "0x1", "-1", "-0755", "10000", "17777", "u+x", "7" * 5000, "0644.0"],
)
def test_modes_that_can_not_be(mode: str) -> None:
    refused(f"./a type=dir mode={mode} time=1.0\n", "number")


@pytest.mark.parametrize("time", ["", "1.5", "1.00", "x", ".0", "1e9", str(2**33 + 1), f"-{2**33 + 1}", "9" * 5000])
def test_times_that_can_not_be(time: str) -> None:
    refused(f"./a type=dir mode=0755 time={time}\n", "number")


@pytest.mark.parametrize("number", ["", "-1", "x", "1.0", "0x10", str(2**62), "9" * 5000])
@pytest.mark.parametrize("keyword", ["size", "inode"])
def test_sizes_and_inodes_that_can_not_be(keyword: str, number: str) -> None:
    size = "" if keyword == "size" else "size=1 "
    refused(f"./a type=file mode=0644 time=1.0 {size}sha256digest={DIGEST} {keyword}={number}\n", "number")


def test_the_largest_numbers() -> None:
    numbers = f"time={2**33}.0 size={2**62 - 1} inode={2**31 - 1}"
    text = f"./a type=file mode=7777 {numbers} sha256digest={DIGEST}\n"
    assert parsed(HEADER + text.encode()) == [Entry("a", "f", 0o7777, 2**33, 2**62 - 1, DIGEST, "", 2**31 - 1)]
    refused(text.replace(f"inode={2**31 - 1}", f"inode={2**31}"), "number")


@pytest.mark.parametrize(
    "digest", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, f"sha256:{DIGEST}", f"0x{'a' * 62}", "a" * 63 + "\\012", "x"]
)
def test_digests_that_can_not_be(digest: str) -> None:
    refused(f"./a type=file mode=0644 time=1.0 size=3 sha256digest={digest}\n", "digest")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "type=file",
        "mode=0644 time=1.0",
        "type= mode=0644 time=1.0",
        "type=char mode=0644 time=1.0",
        "type=block mode=0644 time=1.0",
        "type=file mode=0644 time=1.0",
        "type=file mode=0644 time=1.0 sha256digest=",
        f"type=file mode=0644 sha256digest={DIGEST}",
        f"type=file time=1.0 sha256digest={DIGEST}",
        f"{FILE} link=a",
        f"type=dir mode=0755 time=1.0 sha256digest={DIGEST}",
        f"{DIR} link=a",
        f"{DIR} size=1",
        f"{DIR} inode=1",
        "type=link mode=0777 time=1.0",
        "type=link mode=0777 time=1.0 link=",
        f"{LINK} sha256digest={DIGEST}",
        f"{LINK} size=1",
        f"{LINK} inode=1",
        f"{FIFO} size=0",
        f"{FIFO} link=a",
    ],
)
def test_keywords_that_are_not_those_of_the_type(words: str) -> None:
    refused(f"./a {words}\n".replace(" \n", "\n"))


@pytest.mark.parametrize(
    "word", ["uid=0", "gname=root", "flags=none", "optional", "nochange", "=", "=x", "", "mode=0644", "Type=file"]
)
@pytest.mark.parametrize("kind", [DIR, FILE, LINK])
def test_unknown_keywords(kind: str, word: str) -> None:
    refused(f"./a {kind} {word}\n")
    refused(f"./a {word} {kind}\n")


@pytest.mark.parametrize(
    "text", ["\n", "# a comment\n", "/set type=file\n", f"./a {DIR}\n\n", f"./a {DIR} \\\n  mode=0755\n"]
)
def test_lines_that_are_no_entries(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("blank", ["\t", "\r", "\v", "\f"])
def test_other_blanks_do_not_separate(blank: str) -> None:
    refused(f"./a{blank}{DIR}\n")
    refused(f"./a {FILE.replace(' ', blank)}\n")


def nested(depth: int) -> str:
    return "".join(f"./{'/'.join(['d'] * each)} {DIR}\n" for each in range(1, depth + 1))


def test_too_deep() -> None:
    assert len(parsed(HEADER + nested(256).encode())) == 256
    refused(nested(257), "deep")


@pytest.mark.parametrize("char", ["a", "\\303\\251", "\\377"])
def test_a_name_may_have_255_bytes(char: str) -> None:
    width = 2 if char.startswith("\\303") else 1
    fits = char * (255 // width)
    assert len(parsed(HEADER + f"./{fits} {FILE}\n".encode())) == 1
    refused(f"./{fits}{char} {FILE}\n", "too long")


def long_path(char: str, name_chars: int, depth: int) -> str:
    names = [char * name_chars] * depth
    return "".join(f"./{'/'.join(names[:each])} {DIR}\n" for each in range(1, depth + 1))


def test_a_path_that_is_too_long() -> None:
    refused(long_path("a", 250, 17), "too long")


def test_the_length_of_a_path_is_that_of_its_bytes() -> None:
    """A kernel takes no path of 4096 bytes, however few characters they are."""
    refused(long_path("\\360\\237\\220\\237", 60, 20), "too long")


def test_a_target_that_can_not_be() -> None:
    for target in ("a\\000b", "\\000", "a" * 4001):
        refused(f"./a type=link mode=0777 time=1.0 link={target}\n", "target")
    assert parsed(HEADER + f"./a type=link mode=0777 time=1.0 link={'a' * 4000}\n".encode())[0].link == "a" * 4000


def test_the_length_of_a_target_is_that_of_its_bytes() -> None:
    """symlink(2) takes no target of 4096 bytes."""
    target = "\\303\\251" * 3000
    refused(f"./a type=link mode=0777 time=1.0 link={target}\n", "target")


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_ENTRIES", 3)
    lines = [f"./{name} {DIR}\n" for name in "abcd"]
    assert len(parsed(HEADER + "".join(lines[:3]).encode())) == 3
    refused("".join(lines), "more than 3")


@given(st.binary(max_size=300))
def test_junk_is_refused_or_read(junk: bytes) -> None:
    for data in (junk, HEADER + junk, HEADER + junk + b"\n", HEADER + b"./" + junk + f" {FILE}\n".encode()):
        with contextlib.suppress(InvalidArgument):
            parsed(data)


WORDS = [
    "./a",
    "./a/b",
    "./\\",
    "./\\777",
    "./\\0",
    "type=file",
    "type=dir",
    "type=link",
    "mode=0644",
    "mode=",
    "time=1.0",
]
WORDS += [
    "time=1",
    "size=3",
    "size=-1",
    "inode=1",
    f"sha256digest={DIGEST}",
    "link=a",
    "link=\\400",
    "=",
    "",
    "\t",
    "\r",
]
words = st.sampled_from(WORDS)


@given(st.lists(st.lists(words | st.text(alphabet=string.printable, max_size=8), max_size=8), max_size=6))
def test_lines_of_likely_words_are_refused_or_read(lines: list[list[str]]) -> None:
    data = HEADER + "".join(" ".join(each) + "\n" for each in lines).encode("ascii")
    with contextlib.suppress(InvalidArgument):
        entries = parsed(data)
        assert parsed(encoded(iter(entries))) == entries


@given(trees(), st.data())
def test_a_damaged_manifest_is_refused_or_read(entries: list[Entry], data: st.DataObject) -> None:
    good = encoded(iter(entries))
    at = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.binary(max_size=3))
    with contextlib.suppress(InvalidArgument):
        parsed(good[:at] + change + good[at + data.draw(st.integers(0, 3)) :])


@pytest.mark.parametrize("other", ["mode=0600", "time=2.0", "size=4", f"sha256digest={OTHER}"])
def test_names_of_one_file_that_differ(other: str) -> None:
    """Entries with the same number are one file: it has one content, mode and time."""
    words = {**dict(word.split("=") for word in FILE.split()), **dict([other.split("=")])}
    second = " ".join(f"{key}={value}" for key, value in words.items())
    refused(f"./a {FILE} inode=1\n./b {second} inode=1\n")
