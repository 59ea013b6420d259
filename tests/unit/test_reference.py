"""References: the behaviour of distribution/reference as tables, and what registries and paths rely on."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.digest import Digest
from shoal.errors import InvalidArgument
from shoal.reference import Reference

F64 = "sha256:" + "f" * 64
F128 = "sha512:" + "f" * 128
ID = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"

# text, domain, path, tag, digest
VALID = [
    ("busybox", "docker.io", "library/busybox", None, None),
    ("busybox:1.36", "docker.io", "library/busybox", "1.36", None),
    ("test_com", "docker.io", "library/test_com", None, None),
    ("test.com:5000", "docker.io", "library/test.com", "5000", None),
    ("192.168.1.1", "docker.io", "library/192.168.1.1", None, None),
    ("localhost", "docker.io", "library/localhost", None, None),
    ("localhost/app", "localhost", "app", None, None),
    ("localhost:5000/app", "localhost:5000", "app", None, None),
    ("test.com/repo:tag", "test.com", "repo", "tag", None),
    ("test:5000/repo", "test:5000", "repo", None, None),
    (f"test:5000/repo@{F64}", "test:5000", "repo", None, F64),
    (f"test:5000/repo:tag@{F64}", "test:5000", "repo", "tag", F64),
    ("lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", None),
    ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", None),
    (
        "b.gcr.io/test.example.com/my-app:test.example.com",
        "b.gcr.io",
        "test.example.com/my-app",
        "test.example.com",
        None,
    ),
    (f"xn--7o8h.com/myimage:xn--7o8h.com@{F128}", "xn--7o8h.com", "myimage", "xn--7o8h.com", F128),
    ("foo_bar.com:8080", "docker.io", "library/foo_bar.com", "8080", None),
    ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", None),
    ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050", None),
    ("[2001:db8::1]/repo", "[2001:db8::1]", "repo", None, None),
    (f"[2001:db8::1]:5000/repo:tag@{F64}", "[2001:db8::1]:5000", "repo", "tag", F64),
    ("docker.io/busybox", "docker.io", "library/busybox", None, None),
    ("docker.io/library/foo/bar", "docker.io", "library/foo/bar", None, None),
    ("index.docker.io/debian", "docker.io", "library/debian", None, None),
    ("index.docker.io/docker/docker", "docker.io", "docker/docker", None, None),
    ("Docker/docker", "Docker", "docker", None, None),
    (f"docker.io/{ID}", "docker.io", f"library/{ID}", None, None),
    (ID[:-1], "docker.io", f"library/{ID[:-1]}", None, None),
    ("docker---rules/docker", "docker.io", "docker---rules/docker", None, None),
    ("dock__er/docker", "docker.io", "dock__er/docker", None, None),
    ("d/docker", "docker.io", "d/docker", None, None),
    ("a:" + "t" * 128, "docker.io", "library/a", "t" * 128, None),
    ("a:_", "docker.io", "library/a", "_", None),
    ("example.com/" + "a" * 255, "example.com", "a" * 255, None, None),
]

INVALID = [
    "",
    ":justtag",
    f"@{F64}",
    "repo@sha256:ffffffffffffffffffffffffffffffffff",
    "repo@invaliddigest:" + "f" * 64,
    f"repo@{F64.upper()}",
    f"repo@{F64}@{F64}",
    "repo@",
    "repo:",
    "aa/asdf$$^/aa",
    "[2001:db8::1]",
    "[2001:db8::1]:5000",
    "[fe80::1%eth0]:5000/repo",
    "[2001:db8:3:4::192.0.2.33]:5000/debian",
    "fc00::1:5000/debian",
    "https://github.com/docker/docker",
    "-docker",
    "-docker.io/docker/docker",
    "docker///docker",
    "docker.io/docker///docker",
    "docker-/docker",
    "____/____",
    "_docker/_docker",
    "dock..er/docker",
    "dock_.er/docker",
    "dock___er/docker",
    "docker/",
    "/docker",
    "example.com/",
    "a:-b",
    "a:.b",
    "a:" + "t" * 129,
    "a:b:c",
    "example.com/" + "a" * 256,
    "x" * 100_000,
    "../etc/passwd",
    "a/../b",
    "a/./b",
    "example.com/../../v2",
    "example.com/a?x=1",
    "example.com/a#b",
    "user:pass@example.com/a",
    "example.com:80:90/a",
    "example.com:/a",
    "busybox\n",
    "busybox:latest\n",
    "example.com\n/a",
    " busybox",
    "busy box",
    "busybox\x00",
    "büsybox",
    "busybox:٣",
]


@pytest.mark.parametrize(("text", "domain", "path", "tag", "digest"), VALID)
def test_parse(text: str, domain: str, path: str, tag: str | None, digest: str | None) -> None:
    reference = Reference.parse(text)
    assert (reference.domain, reference.path, reference.tag) == (domain, path, tag)
    assert (None if reference.digest is None else str(reference.digest)) == digest
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize("text", INVALID)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid reference format") as caught:
        Reference.parse(text)
    assert caught.value.reason == "INVALID_REFERENCE"
    assert caught.value.hint
    assert len(caught.value.message) < 600
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "named", "meant"),
    [
        ("Busybox", "library/Busybox", "busybox"),
        ("docker/Docker:Tag", "docker/Docker", "docker/docker:Tag"),
        ("test:5000/Uppercase/lowercase:tag", "Uppercase/lowercase", "test:5000/uppercase/lowercase:tag"),
        ("docker.io/docker/Docker", "docker/Docker", "docker.io/docker/docker"),
        ("Größe", "library/Größe", "größe"),
    ],
)
def test_upper_case(text: str, named: str, meant: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Reference.parse(text)
    assert caught.value.message == f"invalid reference format: repository name ({named}) must be lowercase"
    assert meant in (caught.value.hint or "")


def test_a_bare_id_is_no_name() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Reference.parse(ID)
    assert caught.value.message == f"invalid repository name ({ID}), cannot specify 64-byte hexadecimal strings"


@pytest.mark.parametrize(
    ("text", "familiar", "canonical"),
    [
        ("index.docker.io/library/ubuntu:24.04", "ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("fooo/bar", "fooo/bar", "docker.io/fooo/bar"),
        ("library/foo/bar", "library/foo/bar", "docker.io/library/foo/bar"),
        ("127.0.0.1:8000/private/moonbase", "127.0.0.1:8000/private/moonbase", "127.0.0.1:8000/private/moonbase"),
        ("FOO/bar", "FOO/bar", "FOO/bar"),
        (f"busybox:latest@{F64}", f"busybox:latest@{F64}", f"docker.io/library/busybox:latest@{F64}"),
        ("example.com/library/x", "example.com/library/x", "example.com/library/x"),
    ],
)
def test_forms(text: str, familiar: str, canonical: str) -> None:
    reference = Reference.parse(text)
    assert (reference.familiar(), str(reference)) == (familiar, canonical)
    assert Reference.parse(familiar) == reference


def test_defaults() -> None:
    assert str(Reference.parse("busybox").with_default_tag()) == "docker.io/library/busybox:latest"
    assert Reference.parse("busybox:1").with_default_tag().tag == "1"
    assert Reference.parse(f"busybox@{F64}").with_default_tag().tag is None
    assert str(Reference.parse(f"busybox:1@{F64}").docker_ref()) == f"docker.io/library/busybox@{F64}"
    assert Reference.parse("busybox").docker_ref().tag == "latest"


def test_registry() -> None:
    assert Reference.parse("busybox").registry_host == "registry-1.docker.io"
    assert Reference.parse("localhost:5000/a").registry_host == "localhost:5000"
    assert Reference.parse("a").selector == "latest"
    assert Reference.parse("a:b").selector == "b"
    assert Reference.parse(f"a:b@{F64}").selector == F64


def test_changes_are_checked() -> None:
    reference = Reference.parse("busybox")
    tagged = reference.with_tag("x").with_digest(Digest.parse(F64))
    assert tagged.familiar() == f"busybox:x@{F64}"
    assert tagged.without_tag().without_digest() == reference
    for tag in ("-foo", "", "a/b", "a\n", "t" * 129):
        with pytest.raises(InvalidArgument):
            reference.with_tag(tag)
    with pytest.raises(InvalidArgument):
        Reference("docker.io", "../x")
    with pytest.raises(InvalidArgument):
        Reference("evil.com/x", "y")


component = st.from_regex(r"[a-z0-9]{1,5}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]{1,5}\.[A-Za-z]{2,4}(?::[1-9][0-9]{0,3})?", fullmatch=True)


@given(
    st.one_of(st.just("docker.io"), st.just("localhost"), domains),
    st.lists(component, min_size=1, max_size=4).map("/".join),
    st.none() | st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20),
    st.none() | st.binary(max_size=8).map(Digest.of),
)
def test_round_trip(domain: str, path: str, tag: str | None, digest: Digest | None) -> None:
    path = f"library/{path}" if domain == "docker.io" and "/" not in path else path
    reference = Reference(domain, path, tag, digest)
    assert Reference.parse(str(reference)) == reference
    assert hash(Reference.parse(str(reference))) == hash(reference)


@given(st.text(max_size=60) | st.text("aA.:/@-_[]0", max_size=40))
def test_whatever_parses_is_safe_and_stable(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return
    assert Reference.parse(str(reference)) == reference
    assert not {"", ".", ".."} & set(reference.path.split("/"))
    assert not set(str(reference)) & set(" \t\r\n\\?#%")
