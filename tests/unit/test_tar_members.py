"""Reading and writing tar members, with the standard library's tarfile as the second opinion."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoald.host.extract import clean
from shoald.host.tarmembers import BLOCK, CHAR, DIRECTORY, FILE, HARDLINK, SYMLINK, Member, members
from shoald.host.tarsource import ARCHIVE_FORMATS, Limits, Refused, TarSource
from shoald.host.tarwriter import END, header


def read(archive: bytes) -> list[tuple[Member, bytes]]:
    """Members with their stored bytes."""
    with _source(archive, ARCHIVE_FORMATS) as source:
        return [(member, source.take(member.stored)) for member in members(source)]


@contextlib.contextmanager
def _source(archive: bytes, formats: tuple[str, ...] = ()) -> Iterator[TarSource]:
    fd = os.memfd_create("archive")
    os.write(fd, archive)
    os.lseek(fd, 0, os.SEEK_SET)
    source = TarSource(fd, Limits(), formats)
    try:
        yield source
    finally:
        # Its thread reads the descriptor to the end.
        with contextlib.suppress(Refused):
            source.finish()
        os.close(fd)


def names() -> st.SearchStrategy[bytes]:
    part = st.binary(min_size=1, max_size=90).map(lambda b: b.replace(b"\0", b"x").replace(b"/", b"y"))
    return st.lists(part, min_size=1, max_size=5).map(b"/".join)


times = st.integers(min_value=-(10**19), max_value=10**20)
ids = st.integers(min_value=0, max_value=0xFFFFFFFE)
xattrs = st.dictionaries(
    st.from_regex(rb"user\.[a-z]{1,20}", fullmatch=True), st.binary(min_size=1, max_size=100), max_size=3
)


@settings(max_examples=150, deadline=None)
@given(
    name=names(),
    kind=st.sampled_from([FILE, DIRECTORY, SYMLINK, HARDLINK, CHAR]),
    link=names(),
    mode=st.integers(0, 0o7777),
    uid=ids,
    gid=ids,
    mtime=times,
    content=st.binary(max_size=1500),
    attributes=xattrs,
)
def test_what_is_written_is_read(
    name: bytes,
    kind: bytes,
    link: bytes,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    content: bytes,
    attributes: dict[bytes, bytes],
) -> None:
    content = content if kind == FILE else b""
    member = Member(
        name=name,
        type=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size=len(content),
        stored=len(content),
        mtime_ns=mtime,
        link=link if kind in (SYMLINK, HARDLINK) else b"",
        major=4 if kind == CHAR else 0,
        minor=65 if kind == CHAR else 0,
        xattrs=attributes or None,
    )
    archive = header(member) + content + bytes(-len(content) % BLOCK) + END
    assert len(archive) % BLOCK == 0
    ((found, body),) = read(archive)
    wanted = member.name + b"/" if kind == DIRECTORY and not member.name.endswith(b"/") else member.name
    assert found.name == wanted
    found.name = member.name
    assert found == member
    assert body == content


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=200).filter(
        lambda text: text not in (".", "..")
    ),
    link=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200),
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
    uid=ids,
    mtime=st.integers(-(10**9), 10**10),
    size=st.integers(0, 2000),
    style=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_same_as_tarfile(name: str, link: str, kind: bytes, uid: int, mtime: int, size: int, style: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.uid, info.mtime = kind, uid, mtime
    info.linkname = link if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    info.size = size if kind == tarfile.REGTYPE else 0
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style, errors="surrogateescape") as tar:
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    ((member, body),) = read(out.getvalue())
    assert member.name.rstrip(b"/") == name.encode().rstrip(b"/")
    assert member.link == info.linkname.encode()
    assert (member.type, member.uid, member.mtime_ns) == (kind, uid, mtime * 10**9)
    assert len(body) == info.size


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 600), st.booleans())
def test_junk_is_refused_and_never_crashes(junk: bytes, at: int, in_header: bool) -> None:
    good = header(Member(b"f", FILE, 0o644, 0, 0, 700, 700, 0)) + b"x" * 700
    archive = good[:at] + junk + good[at:] if in_header else good + junk
    with contextlib.suppress(Refused):
        read(archive)


def _fixed(kind: bytes, name: bytes, size: int, body: bytes) -> bytes:
    block = bytearray(header(Member(name, FILE, 0o644, 0, 0, size, size, 0)))
    block[156:157] = kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % BLOCK)


def test_members_without_content_have_none_whatever_they_say() -> None:
    """Docker reads it so; who skips 512 bytes here would see other members than others do."""
    hidden = header(Member(b"next", FILE, 0o644, 0, 0, 0, 0, 0))
    archive = _fixed(b"5", b"dir", 512, b"") + hidden + END
    assert [member.name for member, _ in read(archive)] == [b"dir", b"next"]


def test_global_pax_headers_do_nothing() -> None:
    body = b"19 path=/etc/passwd\n"
    archive = _fixed(b"g", b"global", len(body), body) + header(Member(b"f", FILE, 0, 0, 0, 0, 0, 0)) + END
    assert [member.name for member, _ in read(archive)] == [b"f"]


def test_old_directories() -> None:
    archive = _fixed(b"\0", b"d/", 0, b"") + END
    assert read(archive)[0][0].type == DIRECTORY


def test_unknown_type() -> None:
    with pytest.raises(Refused):
        read(_fixed(b"M", b"f", 0, b"") + END)


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=b\n",
        b"6 a=b\nX",
        b"99 path=x\n",
        b"x path=y\n",
        b"-6 a=b\n",
        b"7 path\n\n",
        b"12 size=-5 \n",
        b"11 mtime=x\n",
    ],
)
def test_bad_pax_headers(records: bytes) -> None:
    with pytest.raises(Refused):
        read(_fixed(b"x", b"p", len(records), records) + header(Member(b"f", FILE, 0, 0, 0, 0, 0, 0)) + END)


def test_endless_pax_header() -> None:
    with pytest.raises(Refused, match="extended header"):
        read(_fixed(b"x", b"p", 1 << 30, b""))


def test_zero_blocks_end_it_and_no_end_is_fine() -> None:
    one = header(Member(b"f", FILE, 0, 0, 0, 0, 0, 0))
    assert len(read(one)) == 1
    assert len(read(one + END + one)) == 1
    assert read(b"") == []


@pytest.mark.parametrize(
    ("cut", "reason"), [(100, "TRUNCATED"), (512 + 100, "TRUNCATED"), (512 + 700 + 10, "TRUNCATED")]
)
def test_truncated(cut: int, reason: str) -> None:
    archive = (header(Member(b"f", FILE, 0o644, 0, 0, 700, 700, 0)) + b"x" * 700 + bytes(BLOCK))[:cut]
    with pytest.raises(Refused) as caught:
        _strict(archive)
    assert caught.value.reason == reason


def _strict(archive: bytes) -> list[bytes]:
    found = []
    with _source(archive) as source:
        for member in members(source):
            source.skip(member.stored)
            found.append(member.name)
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"a/b", b"a/b"),
        (b"./a", b"a"),
        (b"./", b""),
        (b".", b""),
        (b"/", b""),
        (b"/a//b/./c/", b"a/b/c"),
        (b"a/../b", b"b"),
        (b"a/..", b""),
        (b".hidden", b".hidden"),
        (b"a/.hidden", b"a/.hidden"),
        (b"..a/b..", b"..a/b.."),
        (b"...", b"..."),
        (b".//a", b"a"),
        (b"\xff/\xfe", b"\xff/\xfe"),
    ],
)
def test_clean(name: bytes, wanted: bytes) -> None:
    assert clean(name) == wanted


@pytest.mark.parametrize("name", [b"..", b"../a", b"a/../../b", b"/..", b"./..", b"a/b/../../.."])
def test_no_name_leads_out(name: bytes) -> None:
    with pytest.raises(Refused) as caught:
        clean(name)
    assert caught.value.reason == "PATH_ESCAPE"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b"..b", b".c"]), max_size=8).map(b"/".join))
def test_clean_names_stay_below(name: bytes) -> None:
    try:
        cleaned = clean(name)
    except Refused:
        return
    assert not cleaned.startswith(b"/")
    assert all(part not in (b".", b"..", b"") for part in cleaned.split(b"/")) or cleaned == b""


@pytest.mark.parametrize("change", [lambda s: s, lambda s: s[::-1]])
def test_order_of_xattrs_does_not_matter(change: Callable[[list[bytes]], list[bytes]]) -> None:
    attributes = dict.fromkeys(change([b"user.a", b"user.b", b"security.capability"]), b"1")
    member = Member(b"f", FILE, 0, 0, 0, 0, 0, 0, xattrs=attributes)
    assert header(member).count(b"SCHILY.xattr.") == 3
    assert header(member).index(b"security.") < header(member).index(b"user.a") < header(member).index(b"user.b")
