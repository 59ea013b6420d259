"""Package databases: what is read of real ones, and that no bytes at all make a parser fail."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.attest.apk import parse_apk
from shoald.attest.distribution import Distribution
from shoald.attest.dpkg import parse_dpkg
from shoald.attest.licences import expression
from shoald.attest.node import parse_package_json
from shoald.attest.package import Damaged, Package, PackageType
from shoald.attest.pydist import parse_metadata
from shoald.attest.stanzas import MAX_VALUES, stanzas

DEBIAN = Distribution("debian", "12")
ALPINE = Distribution("alpine", "3.19.1")

STATUS = b"""Package: libstdc++6
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 2748
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Source: gcc-12 (12.2.0-14+deb12u1)
Version: 12.2.0-14
Depends: gcc-12-base (= 12.2.0-14), libc6 (>= 2.36), libgcc-s1 (>= 4.2)
Description: GNU Standard C++ Library v3
 This package contains an additional runtime library for C++ programs
 built with the GNU compiler.
 .
 Version: 99
Homepage: http://gcc.gnu.org/

Package: vim-tiny
Status: deinstall ok config-files
Architecture: amd64
Version: 2:9.0.1378-2

Package: broken
Status: install reinstreq half-installed
Architecture: amd64
Version: 1

Package: tzdata
Status: hold ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: all
Version: 2024a-0+deb12u1
"""

INSTALLED = b"""C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:alpine-baselayout
V:3.4.3-r2
A:x86_64
S:8515
I:315392
T:Alpine base dir structure and init scripts
U:https://git.alpinelinux.org/cgit/aports/tree/main/alpine-baselayout
L:GPL-2.0-only
o:alpine-baselayout
m:Natanael Copa <ncopa@alpinelinux.org>
t:1699636343
c:7b6a5b1d8f6b4ed5a9cb5c4dbcd0a8ea0dc6ddd0
D:alpine-baselayout-data=3.4.3-r2 /bin/sh
q:1000
F:dev
F:etc
R:motd
Z:Q1SLkS9hBidUbPwwrw+XR0Whv3ww8=

C:Q1ZDmY2QxTfnnGRJQ2RgrpPzXmM7U=
P:libcrypto3
V:3.1.4-r5
A:x86_64
L:Apache-2.0
o:openssl
m:Ariadne Conill <ariadne@dereferenced.org>
p:so:libcrypto.so.3=3
F:lib
R:libcrypto.so.3
"""


def one(packages: Iterable[Package]) -> Package:
    (package,) = packages
    return package


def test_dpkg() -> None:
    cpp, tzdata = parse_dpkg(STATUS, "/var/lib/dpkg/status", DEBIAN)
    assert cpp == Package(
        type=PackageType.DEB,
        namespace="debian",
        name="libstdc++6",
        version="12.2.0-14",
        qualifiers={"arch": "amd64", "distro": "debian-12", "upstream": "gcc-12@12.2.0-14+deb12u1"},
        architecture="amd64",
        supplier="Debian GCC Maintainers <debian-gcc@lists.debian.org>",
        source="gcc-12 12.2.0-14+deb12u1",
        homepage="http://gcc.gnu.org/",
        location="/var/lib/dpkg/status",
    )
    assert cpp.purl == (
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14%2Bdeb12u1"
    )
    assert (tzdata.name, tzdata.source) == ("tzdata", "tzdata")
    assert tzdata.purl == "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12"


def test_a_package_of_an_image_without_dpkg_has_no_status() -> None:
    body = b"Package: base-files\nVersion: 12.4\nArchitecture: amd64"
    assert one(parse_dpkg(body, "/x", Distribution())).purl == "pkg:deb/debian/base-files@12.4?arch=amd64"
    assert not list(parse_dpkg(b"Package: base-files\nStatus:\nVersion: 1\n", "/x", DEBIAN))


def test_dpkg_of_this_machine() -> None:
    path = Path("/var/lib/dpkg/status")
    if not path.exists():
        pytest.skip("this machine has no dpkg")
    found = {package.name: package for package in parse_dpkg(path.read_bytes(), str(path), DEBIAN)}
    assert found["dpkg"].architecture
    assert len(found) > 50
    assert all(package.version and package.supplier and package.source for package in found.values())


def test_apk() -> None:
    layout, crypto = parse_apk(INSTALLED, "/lib/apk/db/installed", ALPINE)
    assert layout.purl == "pkg:apk/alpine/alpine-baselayout@3.4.3-r2?arch=x86_64&distro=alpine-3.19.1"
    assert (layout.licence, layout.supplier) == ("GPL-2.0-only", "Natanael Copa <ncopa@alpinelinux.org>")
    assert layout.homepage == "https://git.alpinelinux.org/cgit/aports/tree/main/alpine-baselayout"
    assert (crypto.source, crypto.qualifiers["upstream"]) == ("openssl", "openssl")
    assert crypto.name == "libcrypto3"  # not what it provides


METADATA = b"""Metadata-Version: 2.1
Name: PyYAML
Version: 6.0.1
Summary: YAML parser and emitter for Python
Home-page: https://pyyaml.org/
Author: Kirill Simonov
Author-email: xi@resolvent.net
License: MIT
Classifier: License :: OSI Approved :: MIT License

Name: not-this
Version: 2
"""


def metadata(*lines: str) -> Package:
    return parse_metadata("\n".join(["Name: a", "Version: 1", *lines]).encode(), "/x")


def test_python() -> None:
    package = parse_metadata(METADATA, "/x")
    assert package.purl == "pkg:pypi/pyyaml@6.0.1"
    assert (package.licence, package.supplier) == ("MIT", "Kirill Simonov <xi@resolvent.net>")
    assert package.homepage == "https://pyyaml.org/"


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        (("License-Expression: MIT OR Apache-2.0", "License: other"), "MIT OR Apache-2.0"),
        (("License: Apache-2.0",), "Apache-2.0"),
        (("License: UNKNOWN", "Classifier: License :: OSI Approved :: ISC License (ISCL)"), "ISC"),
        (("License: BSD", "Classifier: License :: OSI Approved :: BSD License"), "BSD"),
        (("Classifier: License :: OSI Approved :: BSD License",), "BSD License"),
        (
            (
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: Apache Software License",
            ),
            "Apache-2.0 AND MIT",
        ),
        (("License: Copyright 2001", "  all rights", "  reserved"), "Copyright 2001"),
        ((), ""),
    ],
)
def test_licences_of_python(lines: tuple[str, ...], licence: str) -> None:
    assert metadata(*lines).licence == licence


def test_people_and_pages_of_python() -> None:
    assert metadata("Author-email: A B <a@b.c>").supplier == "A B <a@b.c>"
    assert metadata("Author: A", "Maintainer: M", "Maintainer-email: m@b.c").supplier == "M <m@b.c>"
    assert metadata("Project-URL: Source, https://s", "Project-URL: Homepage, https://h").homepage == "https://h"


@pytest.mark.parametrize("body", [b"", b"\n\n", b"Name: a\n", b"Version: 1\n", b"\0\xff", b": x\n"])
def test_no_distribution_of_python(body: bytes) -> None:
    with pytest.raises(Damaged):
        parse_metadata(body, "/x")


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (
            {"name": "left-pad", "version": "1.3.0", "license": "WTFPL", "author": "azer <a@z.er> (http://z)"},
            ("pkg:npm/left-pad@1.3.0", "WTFPL", "azer <a@z.er>"),
        ),
        (
            {"name": "@types/node", "version": "20.1.0", "license": {"type": "MIT"}, "author": {"name": "T"}},
            ("pkg:npm/%40types/node@20.1.0", "MIT", "T"),
        ),
        (
            {
                "name": "old",
                "version": "0.1",
                "licenses": [{"type": "MIT"}, {"type": "ISC"}, 3, None],
                "author": {"name": "O", "email": "o@p"},
            },
            ("pkg:npm/old@0.1", "MIT OR ISC", "O <o@p>"),
        ),
        ({"name": "x", "version": "1", "license": 7, "author": [1], "homepage": {}}, ("pkg:npm/x@1", "", "")),
    ],
)
def test_node(document: object, wanted: tuple[str, str, str]) -> None:
    package = parse_package_json(json.dumps(document).encode(), "/x")
    assert (package.purl, package.licence, package.supplier) == wanted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"name": "x"}',
        b'{"name": 1, "version": "1"}',
        b'{"name": "../../x", "version": "1"}',
        b'{"name": "@/x", "version": "1"}',
        b'{"name": "\xff", "version": "1"}',
        b"[" * 900_000,
        b'{"a":' * 150_000,
    ],
)
def test_no_package_of_node(body: bytes) -> None:
    with pytest.raises(Damaged):
        parse_package_json(body, "/x")


def test_a_mark_of_byte_order_is_no_damage() -> None:
    assert parse_package_json(b'\xef\xbb\xbf{"name":"x","version":"1"}', "/x").purl == "pkg:npm/x@1"


def test_a_licence_that_is_cut_is_none() -> None:
    long = " OR ".join(["GPL-2.0-or-later"] * 40)
    for at in range(470, 510):
        assert expression(metadata(f"License-Expression: {long[at:]} OR {long}").licence) == ""
    assert expression(metadata(f"License-Expression: {long[:320].rpartition(' OR ')[0]}").licence)


def test_paragraphs_are_bounded() -> None:
    body = b"Name: a\n" * 5000 + b"Other: b\n" + b"Name:" + b"x" * 1_000_000
    (found,) = stanzas(body, ("name",))
    assert found == {"name": ["a"] * MAX_VALUES}
    assert list(stanzas(b"\n" * 5_000_000, ("name",))) == []
    assert list(stanzas(b" Name: a\n\tName: b\nno colon\n", ("name",))) == []


LINES = st.sampled_from(
    [
        b"Package: a",
        b"Version: 1",
        b"Status: install ok installed",
        b"Name: b",
        b"P:c",
        b"V:2",
        b"L:MIT",
        b"",
        b" x",
        b":",
    ]
)


@given(st.lists(LINES | st.binary(max_size=40), max_size=30))
def test_no_bytes_make_a_parser_fail(lines: list[bytes]) -> None:
    body = b"\n".join(lines)
    for package in (*parse_dpkg(body, "/x", DEBIAN), *parse_apk(body, "/x", ALPINE)):
        assert package.name
        assert package.version
        assert package.purl.isascii()
    for parse in (parse_metadata, parse_package_json):
        try:
            assert parse(body, "/x").name
        except Damaged:
            pass
