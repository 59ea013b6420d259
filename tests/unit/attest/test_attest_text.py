"""Hostile text, package URLs, distributions and licence expressions."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.digest import Digest
from shoal.platform import Platform
from shoald.attest.copyright import copyright_path, parse_copyright
from shoald.attest.distribution import Distribution, parse_os_release
from shoald.attest.licences import MAX_DEPTH, expression
from shoald.attest.materials import without_login
from shoald.attest.plain import MAX_TEXT, plain
from shoald.attest.purl import image_url, package_url


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  two   words\n", "two words"),
        ("\x1b[31mred\x07", "[31mred"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("lone\udcff", "lone"),
        ("Grüße – 北京", "Grüße – 北京"),
        ("x" * 600, "x" * (MAX_TEXT - 1) + "…"),
        ("a" + " " * 100_000 + "b", "a…"),
    ],
)
def test_plain_text(text: str, wanted: str) -> None:
    assert plain(text) == wanted


@given(st.text(max_size=3000))
def test_plain_text_is_one_line_of_what_can_be_seen(text: str) -> None:
    made = plain(text)
    assert len(made) <= MAX_TEXT
    assert made.encode().decode() == made
    assert not any(unicodedata.category(each).startswith("C") for each in made)
    assert plain(made) == made


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (("deb", "debian", "curl", "7.50.3-1", {"arch": "i386", "distro": "jessie"}),
         "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=jessie"),
        (("deb", "Debian", "LibStdC++6", "1:12~rc+x", {"arch": ""}), "pkg:deb/debian/libstdc%2B%2B6@1:12~rc%2Bx"),
        (("rpm", "fedora", "curl", "7.50.3-1.fc25", {"epoch": "1", "arch": "i386"}),
         "pkg:rpm/fedora/curl@7.50.3-1.fc25?arch=i386&epoch=1"),
        (("rpm", "", "CamelCase", "1"), "pkg:rpm/CamelCase@1"),
        (("apk", "alpine", "curl", "7.83.0-r0", {"arch": "x86"}), "pkg:apk/alpine/curl@7.83.0-r0?arch=x86"),
        (("pypi", "", "Django_package", "1.11.1.dev1"), "pkg:pypi/django-package@1.11.1.dev1"),
        (("npm", "@angular", "animation", "12.3.1"), "pkg:npm/%40angular/animation@12.3.1"),
        (("npm", "", "a/../b?x#y@z", "1@2"), "pkg:npm/a%2F..%2Fb%3Fx%23y%40z@1%402"),
    ],
)  # fmt: skip
def test_package_urls(parts: tuple[str, str, str, str], wanted: str) -> None:
    assert package_url(*parts) == wanted


@pytest.mark.parametrize(
    ("reference", "platform", "wanted"),
    [
        ("alpine:3.17", "linux/amd64", "pkg:docker/alpine@3.17?platform=linux%2Famd64"),
        ("docker.io/library/alpine", "linux/arm/v7", "pkg:docker/alpine@latest?platform=linux%2Farm%2Fv7"),
        ("user/app:1", "", "pkg:docker/user/app@1"),
        ("example.com:5000/a/b:c", "", "pkg:docker/example.com:5000/a/b@c"),
        (f"busybox@{Digest.of(b'x')}", "", f"pkg:docker/busybox?digest={Digest.of(b'x')}"),
    ],
)
def test_urls_of_images(reference: str, platform: str, wanted: str) -> None:
    assert image_url(reference, Platform.parse(platform) if platform else None) == wanted


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n', Distribution("debian", "12")),
        (b"ID='alpine'\nVERSION_ID=3.19.1\r\n", Distribution("alpine", "3.19.1")),
        (b"# comment\n\nID=arch\n", Distribution("arch", "")),
        (b'ID="../../evil?x=y"\nVERSION_ID="1 2"\n', Distribution()),
        (b"\xff\xfe\0", Distribution()),
        (b"", Distribution()),
    ],
)
def test_distributions(body: bytes, wanted: Distribution) -> None:
    assert parse_os_release(body) == wanted


def test_names_of_distributions_in_urls() -> None:
    assert (Distribution("rhel", "9.3").vendor, Distribution("rhel", "9.3").qualifier) == ("redhat", "rhel-9.3")
    assert Distribution("opensuse-leap", "15.5").vendor == "opensuse"
    assert Distribution().qualifier == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("GPL-2.0-only AND LGPL-2.1-or-later", "GPL-2.0-only AND LGPL-2.1-or-later"),
        ("gpl-2.0+ or (apache-2.0 and bsd-3-clause)", "GPL-2.0+ OR (Apache-2.0 AND BSD-3-Clause)"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("Apache-2.0+", "Apache-2.0+"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0 AND Zlib",
         "GPL-2.0-or-later WITH Classpath-exception-2.0 AND Zlib"),
        ("", ""),
        ("AND", ""),
        ("MIT AND", ""),
        ("MIT BSD-3-Clause", ""),
        ("(MIT", ""),
        ("MIT)", ""),
        ("MIT WITH Apache-2.0", ""),
        ("MIT WITH", ""),
        ("MIT+ +", ""),
        ("LicenseRef-mine", ""),
        ("NOASSERTION", ""),
        ("GPLv2", ""),
        ("MIT\0", ""),
        ("MIT" + " AND MIT" * 200, ""),
        ("(" * MAX_DEPTH + "MIT" + ")" * MAX_DEPTH, "(" * MAX_DEPTH + "MIT" + ")" * MAX_DEPTH),
        ("(" * (MAX_DEPTH + 1) + "MIT" + ")" * (MAX_DEPTH + 1), ""),
    ],
)  # fmt: skip
def test_expressions(text: str, wanted: str) -> None:
    assert expression(text) == wanted


@given(
    st.lists(st.sampled_from(["MIT", "Zlib", "AND", "OR", "WITH", "(", ")", "LLVM-exception", "x", "+"]), max_size=12)
)
def test_an_expression_that_was_written_is_read_again(words: list[str]) -> None:
    written = expression(" ".join(words))
    assert expression(written) == written
    assert written.count("(") == written.count(")")


DEP5 = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: https://example.org

Files: *
Copyright: 1987-2022 Somebody
License: %s

Files: debian/*
License: %s
 The text of it.
 .
 License: not a field
"""


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (b"GPL-3+", b"GPL-3+", "GPL-3.0-or-later"),
        (b"GPL-2", b"LGPL-2.1+", "GPL-2.0-only AND LGPL-2.1-or-later"),
        (b"Expat", b"GPL-2+ or Apache-2", "(GPL-2.0-or-later OR Apache-2.0) AND MIT"),
        (b"GPL-1+ or Artistic-2.0", b"", "GPL-1.0-or-later OR Artistic-2.0"),
        (b"Expat and BSD-3-clause", b"BSD-3-clause", "BSD-3-Clause AND MIT"),
        (b"public-domain", b"Expat", "Expat; public-domain"),
        (b"GPL-2+ or AFL-2.1, and Expat", b"", "GPL-2+ or AFL-2.1, and Expat"),
        (b"\xff\x1b[1m", b"", "\ufffd[1m"),
    ],
)
def test_licences_of_debian(first: bytes, second: bytes, wanted: str) -> None:
    assert parse_copyright(DEP5 % (first, second)) == wanted


def test_a_copyright_for_people_says_nothing() -> None:
    assert parse_copyright(b"This package was debianized by me.\n\nLicense: GPL-2\n") == ""
    assert parse_copyright(b"") == ""


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", ".", "A b", "x" * 300, "-x"])
def test_no_name_of_a_package_leads_elsewhere(name: str) -> None:
    assert copyright_path(name) == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://me:secret@example.org/a.git#main", "https://xxxxx@example.org/a.git#main"),
        ("ssh://git@example.org/a", "ssh://xxxxx@example.org/a"),
        ("https://example.org/@scope/a@1", "https://example.org/@scope/a@1"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("http://a:b@c http://d:e@f", "http://xxxxx@c http://xxxxx@f"),
        ("no url", "no url"),
    ],
)
def test_logins_are_hidden(text: str, wanted: str) -> None:
    assert without_login(text) == wanted
